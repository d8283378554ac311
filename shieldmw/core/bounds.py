"""The bounds of outside text: how much of a request is read, and how the rest counts.

Every reader of what a client sent takes its bounds from here, so that no head costs more than a small multiple of
a plain one. Text beyond a bound always counts as what gains its sender nothing: no credential, no address of its own,
the strictest terms; never "unlimited", and never a slower way of reading it.
"""

from __future__ import annotations

# --- header lines ---
# A browser sends about 20; over HTTP/2 each of its cookies may be a line, and Chrome keeps 180 for a site. Of a longer
# head only the first lines are read. A method override may stand behind them, so such a request counts as one of
# any method. The proxies' header alone is looked for in all lines: an address must not be hidden by lines before it.
MOST_LINES = 240

# Digits of a Content-Length; with more of them it is no number that we read, and the length counts as unknown.
LONGEST_LENGTH = 20

# Of a longer method's name, or with a second line that overrides the method, a request counts as one of any method.
LONGEST_METHOD = 32

# The first Accept line among this many decides whether a refusal is a page or JSON, by this many bytes of its value.
MOST_LINES_BEFORE_ACCEPT = 64
LONGEST_ACCEPT = 1024

# --- the path, in characters ---
# A path that every server reads alike may have any length. Another one that is longer, or that has more slashes,
# backslashes, percent signs and semicolons, is not read: the strictest terms of the settings hold for it.
LONGEST_PATH = 2048
MOST_MARKS = 100

# Passes that each decode one layer of nested escapes; a path that is still escaped then matches none of ours.
MOST_LAYERS = 8

# --- the query ---
# One with more bytes or fields carries no credential and no ticket of ours.
LONGEST_QUERY = 16_384
MOST_QUERY_FIELDS = 64

# --- cookies ---
# Bytes of all cookies together, as nginx takes at most 32 KB of header lines. Of more, none counts as ours.
MOST_COOKIE_BYTES = 32_768

# Browsers keep no longer cookie (RFC 6265, section 6.1); a longer one counts as not shown.
LONGEST_COOKIE = 4096

# Places where a cookie's name is looked at: a short one, such as "id", is the end of other names. Beyond them the
# cookie counts as not shown.
MOST_LOOKALIKES = 64

# --- credentials and papers ---
# No API key and no sane JWT is longer; a longer credential fails without being read.
LONGEST_CREDENTIAL = 8192

# Its header has room for a scheme or for other subprotocols; the rest of a longer line is not read.
LONGEST_TOKEN_LINE = LONGEST_CREDENTIAL + 256

# Percent-escapes of a credential in a query; one with more counts as not shown.
MOST_ESCAPES = 64

# WebSocket subprotocols that are read of an offer: pages offer a few. A credential behind them is not seen.
MOST_PROTOCOLS = 16

# Characters of a subprotocol's name: a longer one is taken for a token, and never sent back.
LONGEST_PROTOCOL = 32

# A ticket or a number has about 200 characters; a longer text is neither.
LONGEST_SIGNED_TICKET = 512

# --- the proxies' header, read from the right ---
# Bytes and hops that are read, more than any chain of proxies has. The rest, further left, is not read; where all hops
# that are read are trusted proxies, the client is unknown.
LONGEST_HEADER = 16_384
MOST_HOPS = 128

# The longest spelling of an address with brackets, zone and port is far below this; a longer hop is no address.
LONGEST_HOP = 100

# Bytes of one element of a Forwarded header, and commas in the header, those in quoted strings included. Beyond either
# the rest of the header, further left, counts as unreadable.
LONGEST_ELEMENT = 512
MOST_COMMAS = 128

# --- the admin routes ---
# A longer path is not theirs (``LONGEST_PATH``). A longer body is answered with 413, and a head of more than
# ``MOST_LINES`` with 431.
MOST_BODY_BYTES = 16 * 1024

# A 422 names this many mistakes.
MOST_ERRORS = 20
