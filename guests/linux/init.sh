#!/bin/busybox sh
# The first program of the Linux guest. It fills memory, then goes round for ever: it checks a part of that memory,
# writes another part anew, and says on the serial port whether all was as it should be. ../linux-report.ts reads that.
#
# The kernel's command line may say:
#
#   ramport.kept=16        MiB of random bytes, written once; each pass compares one MiB with its sum
#   ramport.rewritten=4    MiB that are written again and again; each pass checks one of them, then writes it anew
#   ramport.pause=0.1      seconds of sleep after each pass
#
# All that an error says goes to the same port: the report is the only witness.
set -u
exec 2>&1
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# No message of the kernel within a line of ours, but for the last one that it ever writes.
dmesg -n 1

# option NAME DEFAULT: the value of ramport.NAME on the command line
option() {
  for word in $(cat /proc/cmdline); do
    case $word in "ramport.$1="*)
      echo "${word#*=}"
      return
      ;;
    esac
  done
  echo "$2"
}

kept=$(option kept 16)
rewritten=$(option rewritten 4)
pause=$(option pause 0.1)
read -r uuid </proc/sys/kernel/random/uuid
id=${uuid%%-*}

# Files that failed a check. A name stays here: after one error there is no good report any more.
bad=
wrong() {
  case "$bad " in *" $1 "*) ;; *) bad="$bad $1" ;; esac
}

# content NUMBER: what is written for the NUMBERth time: random bytes, each time shifted by one more against the pages.
content() {
  tail -c "+$(($1 % 4096 + 1))" "kept.$(($1 % kept))"
  echo "guest=$id number=$1"
}

# same ONE OTHER: whether both are there and alike; a program that did not run says nothing
same() {
  [ -n "$1" ] && [ "$1" = "$2" ]
}

# There is some room for the sums.
mount -t tmpfs -o "size=$((kept + 2 * rewritten + 2))m" tmpfs /data
cd /data || exit

file=0
while [ "$file" -lt "$kept" ]; do
  dd if=/dev/urandom of="kept.$file" bs=1048576 count=1 iflag=fullblock 2>/dev/null || wrong "kept.$file"
  sha1sum <"kept.$file" >"sum.$file" || wrong "sum.$file"
  file=$((file + 1))
done
number=0
while [ "$number" -lt "$rewritten" ]; do
  content "$number" >"rewritten.$number" || wrong "rewritten.$number"
  number=$((number + 1))
done

echo "guest=$id ready kept=$kept rewritten=$rewritten linux=$(uname -r)"

pass=0
while :; do
  pass=$((pass + 1))
  file=$((pass % kept))
  same "$(sha1sum <"kept.$file")" "$(cat "sum.$file")" || wrong "kept.$file"
  # The file that was written so many times ago is next.
  number=$((pass - 1))
  file=$((number % rewritten))
  same "$(sha1sum <"rewritten.$file")" "$(content "$number" | sha1sum)" || wrong "rewritten.$file"
  content "$((number + rewritten))" >"rewritten.$file" || wrong "rewritten.$file"
  read -r uptime rest </proc/uptime
  if [ -z "$bad" ]; then
    echo "guest=$id pass=$pass ok uptime=$uptime"
  else
    echo "guest=$id pass=$pass BAD files=${bad# }"
  fi
  sleep "$pause"
done
