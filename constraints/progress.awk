# Condenses pip's output: one status line on a terminal (-v terminal=1), a line now and then elsewhere, errors in full.

function status(text) {
  if (terminal) printf "\r\033[K      %s", substr(text, 1, 100)
  else if (++seen % 25 == 1 || text ~ /MB\)|GB\)|^installing/) print "      " substr(text, 1, 100)
  fflush()
}

/^(Collecting|Processing|Obtaining) / { sub(".*/", "", $2); status(++packages " packages: " $2); next }
/^  Downloading .*[0-9] (MB|GB)\)/ { sub("^  Downloading ", ""); sub("-(cp|py)[0-9][^ ]*", ""); status("downloading " $0); next }
/^Building wheels? / { status("building"); next }
/^Installing collected packages/ { status("installing " split($0, names, ",") " packages"); next }
/^(ERROR|error)|^ *×|^ *╰|^ *note:|^ *hint:/ { if (terminal) print ""; print; fflush() }
END { if (terminal && packages) print "" }
