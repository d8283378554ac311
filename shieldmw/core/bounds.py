"""The bounds of outside text: how much of a request is read, and what applies beyond that.

All code that reads what a client sent takes its bounds from here, so that no head costs more than a small multiple of a
plain one. Exceeding a bound never helps the sender: such text is no credential and no address, the strictest rules
apply, and it is never exempt from limits or passed to a slower parser.
"""

from __future__ import annotations

# --- header lines ---
# Header lines read. A browser sends about 20; over HTTP/2 each cookie may be a line, and Chrome keeps 180 for a site.
# Later lines are ignored. One of them may override the method, so a request with more lines counts as one of any
# method. Only the proxies' header is searched for in all lines: clients must not be able to hide it behind others.
MOST_LINES = 240

# Digits of a Content-Length; with more, the length counts as unknown.
LONGEST_LENGTH = 20

# Characters of a method's name. With a longer one, or two lines that override the method, a request counts as one of
# any method.
LONGEST_METHOD = 32

# Lines among which the first Accept decides whether a refusal is a page or JSON, and bytes of its value that are read.
MOST_LINES_BEFORE_ACCEPT = 64
LONGEST_ACCEPT = 1024

# --- the path, in characters ---
# Maximum length, and maximum number of slashes, backslashes, percent signs and semicolons together. A path beyond
# either is not parsed: the strictest rules apply to it. Paths that all servers read alike have no maximum.
LONGEST_PATH = 2048
MOST_MARKS = 100

# Percent signs of a path that a proxy asks about, up to which it is decoded as a server would: enough for 341
# characters of Chinese. A path with more is left as it is, and is beyond reading.
MOST_PATH_ESCAPES = 1024

# Layers of nested escapes that are decoded; a path that is still escaped after that matches no path in the settings.
MOST_LAYERS = 8

# --- the query ---
# Bytes and fields of a query; one with more counts as carrying no credential and no ticket.
LONGEST_QUERY = 16_384
MOST_QUERY_FIELDS = 64

# --- cookies ---
# Bytes of all cookies together: nginx accepts at most 32 KB of header lines. If there are more, all count as absent.
MOST_COOKIE_BYTES = 32_768

# Bytes of one cookie: browsers need not keep longer ones (RFC 6265, section 6.1). A longer one counts as absent.
LONGEST_COOKIE = 4096

# Occurrences of a cookie's name that are checked: other names may end in a short one, such as "id". If none of these is
# the cookie, it counts as absent.
MOST_LOOKALIKES = 64

# --- credentials and tickets ---
# Characters of a credential: no API key and no sane JWT is longer. A longer one is rejected without being parsed.
LONGEST_CREDENTIAL = 8192

# Characters of a credential's header line, with room for a scheme or other subprotocols; the rest is not read.
LONGEST_TOKEN_LINE = LONGEST_CREDENTIAL + 256

# Percent-escapes of a credential in a query; one with more counts as absent.
MOST_ESCAPES = 64

# WebSocket subprotocols read from an offer; pages offer a few. A credential after them is ignored.
MOST_PROTOCOLS = 16

# Characters of a subprotocol's name; a longer one is treated as a token, and never sent back.
LONGEST_PROTOCOL = 32

# Characters of a ticket or number; real ones have 88 and 60. Longer text is rejected.
LONGEST_SIGNED_TICKET = 512

# --- playlists ---
# Bytes of a playlist that tickets are written into, several thousand segments; a longer one is passed on as it is.
MOST_PLAYLIST_BYTES = 262_144

# --- the proxies' header, read from the right ---
# Bytes and hops that are read; no real chain of proxies has more. The rest, further left, is ignored; if all hops that
# were read are trusted proxies, the client is unknown.
LONGEST_HEADER = 16_384
MOST_HOPS = 128

# Characters of a hop: the longest spelling of an address with brackets, zone and port is far shorter. A longer hop is
# not an address.
LONGEST_HOP = 100

# Bytes of one element of a Forwarded header, and commas in the header, including those in quoted strings. Beyond either
# bound the rest of the header, further left, counts as unreadable.
LONGEST_ELEMENT = 512
MOST_COMMAS = 128

# --- the admin routes ---
# Bytes of a body; a longer one is answered with 413. A request whose path is longer than ``LONGEST_PATH`` goes to the
# app, and a head of more than ``MOST_LINES`` is answered with 431.
MOST_BODY_BYTES = 16 * 1024

# Errors listed in a 422.
MOST_ERRORS = 20
