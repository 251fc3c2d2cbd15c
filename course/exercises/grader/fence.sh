# Shows a kernel what it needs and nothing else; runs as the root of its own namespaces.
#
#   fence.sh FOLDER USER MIB VISIBLE... -- HIDDEN... -- COMMAND...
#
# FOLDER/run (the kernel's sockets) stays where it is, all VISIBLE paths read-only; the current
# folder is copied to /home, without notebooks. /home, /tmp and /dev/shm share MIB of memory.
# USER is the number of the user to become, or 0 to stay the one who grades, without any right.
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin  # not on everyone's path, but theirs to use in here
folder=$1 user=$2 mib=$3 root=$1/root
shift 3

show() {
    [ -e "$1" ] || return 0
    mkdir -p "$root${1%/*}"
    if [ -L "$1" ]; then cp -P "$1" "$root$1"; return; fi
    if [ -d "$1" ]; then mkdir -p "$root$1"; else : >"$root$1"; fi
    mount --rbind "$1" "$root$1"
}

mount -t tmpfs -o "size=${mib}m,nr_inodes=100000,mode=755,nosuid,nodev" fence "$root"
mkdir "$root/proc" "$root/home" "$root/tmp" "$root/outside"
mkdir -p "$root/dev/shm"
chmod 1777 "$root/tmp" "$root/dev/shm"
mount -t proc proc "$root/proc"
while [ "$1" != -- ]; do
    show "$1"
    # A link and a device need no such care, and a mount may not lose what restricted it before.
    if [ -d "$1" ] && [ ! -L "$1" ]; then mount -o remount,bind,ro,nosuid,nodev "$root$1"; fi
    shift
done
shift
while [ "$1" != -- ]; do
    mount -t tmpfs -o ro,size=4k fence "$root$1"
    shift
done
shift
show "$folder/run"
cp -R . "$root/home"
find "$root/home" -name '*.ipynb' -delete

become=""
if [ "$user" = 0 ]; then
    # No further namespaces, in which a process would have rights again.
    echo 0 >"$root/proc/sys/user/max_user_namespaces"
else
    become="--reuid=$user --regid=$user --clear-groups"
    chown -R "$user" "$folder/run" "$root/home"
fi
echo 1000 >/proc/self/oom_score_adj
cd "$root"
pivot_root . outside
umount -l /outside
rmdir /outside
cd /home
# shellcheck disable=SC2086 # become is none or several words
exec setpriv --pdeathsig=KILL --no-new-privs --bounding-set=-all --inh-caps=-all $become "$@"
