from __future__ import annotations

from pathlib import Path

import pytest

from crkd_ros.conversions import header_message
from rosbag_tools.bags import LATCHED, BagError, listed, new_bag, open_bag
from rosbag_tools.typestore import bag_messages


def write(out: Path, stamps: tuple[int, ...] = (5, 10, 10, 20), overwrite: bool = False) -> Path:
    messages = bag_messages()
    with new_bag(out, overwrite=overwrite) as bag:
        bag.add_topic("/text", "std_msgs/msg/String")
        bag.add_topic("/head", "std_msgs/msg/Header", qos=LATCHED)
        for i, stamp in enumerate(stamps):
            bag.write("/text", stamp, messages.String(data=f"text {i}"))
        bag.write("/head", stamps[-1], header_message(messages, 7, "here"))
    return out


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_what_was_written_is_read_in_order(tmp_path: Path, name: str) -> None:
    with open_bag(write(tmp_path / name)) as bag:
        assert (bag.start, bag.end) == (5, 20)
        assert bag.topics["/text"].count == 4
        found = [(m.topic, m.stamp, getattr(m.message, "data", None)) for m in bag.messages()]
    assert found == [
        ("/text", 5, "text 0"),
        ("/text", 10, "text 1"),
        ("/text", 10, "text 2"),
        ("/text", 20, "text 3"),
        ("/head", 20, None),
    ]


def test_topics_and_time_can_be_chosen(tmp_path: Path) -> None:
    with open_bag(write(tmp_path / "bag")) as bag:
        assert [m.message.data for m in bag.messages(["/text"], start=10, stop=20)] == ["text 1", "text 2"]
        assert list(bag.messages(["/nothing"])) == []


def test_latched_topics_are_marked(tmp_path: Path) -> None:
    with open_bag(write(tmp_path / "bag")) as bag:
        assert bag.topics["/head"].latched
        assert not bag.topics["/text"].latched


def test_missing_topic_is_named_with_those_there(tmp_path: Path) -> None:
    with open_bag(write(tmp_path / "bag")) as bag:
        bag.require(["/text"])
        with pytest.raises(BagError, match=r"no message on /radar_front/points \(found /head, /text\)"):
            bag.require(["/text", "/radar_front/points"])


def test_nothing_is_left_of_a_bag_that_failed(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with new_bag(tmp_path / "bag") as bag:
            bag.add_topic("/text", "std_msgs/msg/String")
            bag.write("/text", 0, bag_messages().String(data="x"))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bag", "bag.mcap"])
def test_existing_bag_is_kept_unless_told(tmp_path: Path, name: str) -> None:
    out = write(tmp_path / name)
    with pytest.raises(BagError, match=r"exists already; .*--overwrite"):
        write(out)
    write(out, stamps=(1,), overwrite=True)
    with open_bag(out) as bag:
        assert bag.topics["/text"].count == 1
    assert list(tmp_path.iterdir()) == [out]


def test_existing_bag_survives_a_failed_replacement(tmp_path: Path) -> None:
    out = write(tmp_path / "bag")
    with pytest.raises(RuntimeError), new_bag(out, overwrite=True):
        raise RuntimeError
    with open_bag(out) as bag:
        assert bag.topics["/text"].count == 4


def test_a_folder_that_is_no_bag_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("dear to me")
    with pytest.raises(BagError, match="is not a bag"):
        write(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_missing_path(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="no such file or folder"), open_bag(tmp_path / "nothing"):
        pass


def test_folder_without_metadata_suggests_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "drive.mcap")
    with pytest.raises(BagError, match=r"no metadata\.yaml.*did you mean .*drive\.mcap"), open_bag(tmp_path / "folder"):
        pass


def test_other_file(tmp_path: Path) -> None:
    (tmp_path / "bag.txt").write_text("hello")
    with pytest.raises(BagError, match=r"expected a folder, or a file ending in \.mcap or \.db3"):
        open_bag(tmp_path / "bag.txt").__enter__()


@pytest.mark.parametrize("keep", [0, 4, 100, 400])
def test_truncated_file_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    out = write(tmp_path / "bag.mcap")
    out.write_bytes(out.read_bytes()[:keep])
    with pytest.raises(BagError, match=r"bag\.mcap: damaged or truncated"), open_bag(out) as bag:
        list(bag.messages())


def test_truncation_inside_a_bag_folder_is_found(tmp_path: Path) -> None:
    out = write(tmp_path / "bag")
    file = out / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(BagError, match="bag: damaged or truncated"), open_bag(out) as bag:
        list(bag.messages())


def test_damaged_metadata_is_one_clear_error(tmp_path: Path) -> None:
    out = write(tmp_path / "bag")
    (out / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with pytest.raises(BagError, match="bag: damaged or truncated"):
        open_bag(out).__enter__()


def test_metadata_that_is_no_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").write_text("a: [\nb: {\n")
    with pytest.raises(BagError, match="damaged or truncated") as error, open_bag(tmp_path / "bag"):
        pass
    assert "\n" not in str(error.value)


def test_message_of_a_big_bag_stays_readable() -> None:
    assert listed([f"/t{i}" for i in range(9)]) == "/t0, /t1, /t2, /t3, /t4, /t5 and 3 more"


def test_damaged_message_names_its_topic(tmp_path: Path) -> None:
    with new_bag(tmp_path / "bag") as bag:
        bag.add_topic("/text", "std_msgs/msg/String")
        bag.write_raw("/text", 0, b"\0\1\0\0\xff\0\0\0x")
    with open_bag(tmp_path / "bag") as bag, pytest.raises(BagError, match="/text: damaged message"):
        list(bag.messages())


def test_raw_bytes_are_those_written(tmp_path: Path) -> None:
    data = b"\0\1\0\0\2\0\0\0a\0"
    with new_bag(tmp_path / "bag") as bag:
        bag.add_topic("/text", "std_msgs/msg/String")
        bag.write_raw("/text", 3, data)
    with open_bag(tmp_path / "bag") as bag:
        assert list(bag.raw_messages()) == [("/text", 3, data)]


def test_types_unknown_to_us_are_read_by_the_bags_own_definition(tmp_path: Path) -> None:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg("float64 volume", "other_msgs/msg/Horn"))
    horn = store.types["other_msgs/msg/Horn"]
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/horn", "other_msgs/msg/Horn", typestore=store)
        writer.write(connection, 1, store.serialize_cdr(horn(volume=0.5), "other_msgs/msg/Horn"))
    with open_bag(tmp_path / "bag") as bag:
        assert [m.message.volume for m in bag.messages()] == [0.5]


def test_qos_is_written_as_old_distributions_read_it(tmp_path: Path) -> None:
    # Humble and Iron expect one string with numbers; a list of mappings makes their player fail.
    import yaml

    information = yaml.safe_load((write(tmp_path / "bag") / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    topics = {t["topic_metadata"]["name"]: t["topic_metadata"] for t in information["topics_with_message_count"]}
    (profile,) = yaml.safe_load(topics["/head"]["offered_qos_profiles"])
    assert (profile["durability"], profile["reliability"], profile["history"]) == (1, 1, 1)
