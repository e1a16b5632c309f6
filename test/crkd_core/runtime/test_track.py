"""The bounded list of one sensor's messages."""

from crkd_core.runtime.track import Track


def filled(*stamps: int, capacity: int = 8) -> Track[str]:
    track: Track[str] = Track(capacity)
    for stamp in stamps:
        track.add(stamp, str(stamp), arrival=0)
    return track


def test_messages_are_kept_in_order_of_their_stamps():
    track = filled(3, 1, 2)
    assert (track.stamps, track.items) == ([1, 2, 3], ["1", "2", "3"])


def test_oldest_go_first_when_it_is_full():
    assert filled(1, 2, 3, 4, capacity=2).stamps == [3, 4]


def test_newest_is_remembered_when_messages_are_dropped_but_not_when_time_begins_anew():
    track = filled(1, 2, 3)
    track.drop_before(10)
    assert (track.stamps, track.newest) == ([], 3)
    track.purge_after(2)
    assert track.newest is None


def test_purge_keeps_what_is_not_newer():
    track = filled(1, 2, 3)
    track.purge_after(2)
    assert (track.stamps, track.newest) == ([1, 2], 2)
