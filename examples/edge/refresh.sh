#!/bin/sh
# Keeps the deny list of a shield in nginx, HAProxy or nftables:
#
#     refresh.sh nginx|haproxy|nft SECONDS [options of curl]
#
# It asks for the list every SECONDS, and applies it if it has changed. Whatever fails, the edge keeps the list that it has.
#   DENY_URL      the list
#   DENY_HEADER   a file with the line "Authorization: Bearer …" and the view token, which nobody else may read
#   DENY_FILE     what nginx includes, or the map of HAProxy
#   DENY_RELOAD   the command that reloads nginx
#   DENY_SOCKET   the stats socket of HAProxy, with "level admin"
set -u
kind=${1:?nginx, haproxy or nft} every=${2:?seconds}
shift 2
DENY_URL=${DENY_URL:-http://127.0.0.1:8000/-/shield/deny.txt}
DENY_HEADER=${DENY_HEADER:-/etc/shieldmw/view-token}
DENY_SOCKET=${DENY_SOCKET:-/run/haproxy/admin.sock}
DENY_RELOAD=${DENY_RELOAD:-nginx -s reload}
case $kind in
    nginx) DENY_FILE=${DENY_FILE:-/etc/nginx/shield-deny.conf} ;;
    haproxy) DENY_FILE=${DENY_FILE:-/etc/haproxy/shield-deny.map} ;;
    nft) ;;
    *) echo "refresh.sh: '$kind' is not nginx, haproxy or nft" >&2; exit 2 ;;
esac
case $every in
    '' | *[!0-9.]*) echo "refresh.sh: '$every' is no number of seconds: write it like 5" >&2; exit 2 ;;
esac
[ -r "$DENY_HEADER" ] || { echo "refresh.sh: DENY_HEADER=$DENY_HEADER cannot be read: it holds the header with the view token" >&2; exit 2; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 0' INT TERM
export LC_ALL=C

# The list as it is now, in $work/list; fails if it is the one that was applied last.
fetch() {
    status=$(curl --silent --show-error --max-time 10 --max-filesize 4000000 --header "@$DENY_HEADER" "$@" \
        --etag-compare "$work/etag" --etag-save "$work/etag.new" --output "$work/list" \
        --write-out '%{http_code}' "$DENY_URL") || status="nothing"
    case $status in
        200) is_whole "$work/list" || fail "what $DENY_URL answers is not a deny list" ;;
        304) return 1 ;;
        *) fail "$DENY_URL answers $status" ;;
    esac
}

# Whether there are only comments and networks in a file, as many as it says, and its end: a line that is cut, as in /2
# instead of /24, could deny a quarter of all addresses. Nothing else gets into a configuration.
is_whole() {
    awk -F / '
        /^# networks: [0-9]+$/ { told = substr($0, 13); next }
        /^# end$/ { end = NR; next }
        /^#[ a-z0-9:]*$/ { next }
        /^[0-9a-f.:]+\/[0-9]+$/ && $2 + 0 <= ($1 ~ /:/ ? 128 : 32) { count++; next }
        { other = 1 }
        END { exit other || end != NR || told == "" || told + 0 != count + 0 }' "$1"
}

# If nginx does not take the new file, the old one is put back: nginx would not start with it either.
apply_nginx() {
    sed '/^#/!s/$/ 1;/' "$work/list" >"$DENY_FILE.new" || return 1
    [ ! -e "$DENY_FILE" ] || cp -p "$DENY_FILE" "$work/old" || return 1
    mv "$DENY_FILE.new" "$DENY_FILE" && $DENY_RELOAD && return 0
    [ ! -e "$work/old" ] || cp -p "$work/old" "$DENY_FILE"
    return 1
}

# Without a reload, which would leave a second process running until the last stream of the first one has ended.
apply_haproxy() {
    sed '/^#/!s/$/ 1/' "$work/list" >"$DENY_FILE.new" && mv "$DENY_FILE.new" "$DENY_FILE" || return 1 # for the next start
    version=$(echo "prepare map $DENY_FILE" | haproxy_answers | sed -n 's/^New version created: \([0-9]*\)$/\1/p')
    [ -n "$version" ] || return 1
    {
        echo prompt
        sed -n "/^#/!s|^|add map @$version $DENY_FILE |p" "$DENY_FILE"
        echo "commit map @$version $DENY_FILE"
        echo quit
    } | haproxy_answers | { ! grep '[a-z]' >&2; } # it says nothing if all is well
}

haproxy_answers() {
    socat -t 10 stdio "unix-connect:$DENY_SOCKET"
}

# One transaction. Each network leaves the set at its end, even if this script is no longer running.
apply_nft() {
    awk -v now="$(date +%s)" '
        BEGIN { print "flush set inet shieldmw denied4\nflush set inet shieldmw denied6" }
        /^# until: / { timeout = $3 - now; timeout = timeout > 0 ? " timeout " timeout "s" : "over"; next }
        /^# always/ { timeout = ""; next }
        /^#/ || timeout == "over" { next }
        { set = /:/ ? "denied6" : "denied4"; elements[set] = elements[set] $0 timeout ", " }
        END { for (set in elements) print "add element inet shieldmw " set " { " elements[set] "}" }' "$work/list" >"$work/nft" && nft -f "$work/nft"
}

fail() {
    echo "refresh.sh: $1: the list stays as it is" >&2
    return 1
}

while :; do
    if fetch "$@"; then
        if "apply_$kind"; then
            mv "$work/etag.new" "$work/etag"
            echo "refresh.sh: $(grep -c '^[^#]' "$work/list") networks are denied"
        else
            fail "the new list cannot be applied"
        fi
    fi
    sleep "$every" &
    wait $!
done
