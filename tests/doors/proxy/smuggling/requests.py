"""The corpus of requests that servers have read in two ways, in groups by what they play with.

Sources: RFC 9112, sections 3.2, 6.3 and 11.2; the published research on request smuggling (CL.TE, TE.CL, TE.TE, CL.0,
0.CL, h2c, chunk extensions and their line ends), each in words of our own.
"""

from __future__ import annotations

from doors.proxy.smuggling.payloads import (
    AFTER,
    AFTERWARDS,
    CHUNKED,
    HIDDEN,
    HOST,
    Payload,
    Seen,
    bare,
    get,
    passes,
    post,
)

EMPTY_CHUNKS = "0\r\n\r\n"
CHUNKS = "3\r\nabc\r\n0\r\n\r\n"
ABC = Seen(body=b"abc")
GOT = Seen("GET")

# The server in front drops the length, as RFC 9112, section 6.3, allows, and closes the connection after the answer.
LENGTH_AND_CHUNKS = (
    passes(
        "length, then chunks", "CL.TE", post("Content-Length: 6", CHUNKED, body=EMPTY_CHUNKS + "G" + HIDDEN), Seen()
    ),
    passes(
        "chunks, then length",
        "TE.CL",
        post(CHUNKED, "Content-Length: 4", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n{EMPTY_CHUNKS}"),
        Seen(body=HIDDEN.encode()),
    ),
    passes(
        "length of the chunks",
        "both say the same, so nothing is hidden",
        post("Content-Length: 13", CHUNKED, body=CHUNKS),
        ABC,
    ),
    passes("length 0 and chunks", "0.TE", post("Content-Length: 0", CHUNKED, body=CHUNKS + HIDDEN), ABC),
    Payload(
        "wrong length and chunks",
        "a value that is no number, beside chunks that would override it",
        post("Content-Length: x", CHUNKED, body=CHUNKS + HIDDEN),
    ),
    Payload(
        "length, chunks, and a bad chunk",
        "the framing that wins is broken: no way back to the other",
        post("Content-Length: 3", CHUNKED, body="abc" + HIDDEN),
    ),
    passes(
        "GET with both",
        "a body where none is expected",
        get("Content-Length: 5", CHUNKED) + CHUNKS + HIDDEN,
        Seen("GET", body=b"abc"),
    ),
)

CODINGS = tuple(
    Payload(name, tries, post(*lines, body=CHUNKS + HIDDEN))
    for name, tries, lines in (
        ("xchunked", "TE.TE: a name that ends the same", ["Transfer-Encoding: xchunked"]),
        ("chunkedx", "TE.TE: a name that begins the same", ["Transfer-Encoding: chunkedx"]),
        ("quoted chunked", "TE.TE: a quoted string is no token", ['Transfer-Encoding: "chunked"']),
        ("gzip, chunked", "a coding that we would have to undo", ["Transfer-Encoding: gzip, chunked"]),
        ("chunked, gzip", "chunks that are not last: no end can be known", ["Transfer-Encoding: chunked, gzip"]),
        ("chunked twice in a list", "chunks within chunks", ["Transfer-Encoding: chunked, chunked"]),
        ("chunked in two lines", "chunks within chunks", [CHUNKED, CHUNKED]),
        ("identity, chunked", "a coding that is no longer one", ["Transfer-Encoding: identity, chunked"]),
        ("chunked, identity", "the last one counts, or the first", ["Transfer-Encoding: chunked, identity"]),
        ("chunked; parameter", "chunked has no parameters", ["Transfer-Encoding: chunked;q=1"]),
        ("chunked and an unknown line", "TE.TE: the second line hides the first", [CHUNKED, "Transfer-Encoding: x"]),
        ("unknown line and chunked", "TE.TE: the first line hides the second", ["Transfer-Encoding: x", CHUNKED]),
        ("empty coding", "a line that says nothing", ["Transfer-Encoding:"]),
        ("empty entry in the list", "a list that some split and others compare", ["Transfer-Encoding: chunked,"]),
        ("identity", "no chunks, and no length", ["Transfer-Encoding: identity"]),
        ("deflate", "the end of the body is the end of the connection", ["Transfer-Encoding: deflate"]),
        ("vertical tab before chunked", "white space to some, a byte to others", ["Transfer-Encoding: \x0bchunked"]),
        ("form feed after chunked", "white space to some, a byte to others", ["Transfer-Encoding: chunked\x0c"]),
        ("no-break space before chunked", "white space in Latin-1", ["Transfer-Encoding: \xa0chunked"]),
        ("NUL after chunked", "the end of a string in C", ["Transfer-Encoding: chunked\0"]),
        ("bare CR before chunked", "the end of a line to some", ["X: y\rTransfer-Encoding: chunked"]),
        (
            "space in the name",
            "TE.TE: skipped by some, refused by others",
            ["Transfer Encoding: chunked", "Content-Length: 0"],
        ),
        ("space before the colon", "RFC 9112, section 5.1, says 400", ["Transfer-Encoding : chunked"]),
        ("tab before the colon", "the same", ["Transfer-Encoding\t: chunked"]),
        ("folded value", "obs-fold: the value is on the next line", ["Transfer-Encoding:", " chunked"]),
        (
            "folded after another line",
            "obs-fold: the coding is a part of X, or a line",
            ["X: y", " Transfer-Encoding: chunked"],
        ),
        ("colon missing", "a line that is no header line", ["Transfer-Encoding chunked"]),
        ("colon first", "an empty name", [": chunked", "Content-Length: 0"]),
    )
)

CODINGS_THAT_PASS = (
    passes(
        "CHUNKED",
        "the coding's name has no case",
        post("Transfer-Encoding: CHUNKED", body=CHUNKS + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "tabs around chunked",
        "white space that is allowed",
        post("Transfer-Encoding:\tchunked\t ", body=CHUNKS + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "header in capitals",
        "the name has no case",
        post("TRANSFER-ENCODING: chunked", body=CHUNKS + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "with an underscore",
        "a name that becomes Transfer-Encoding in CGI: dropped, and its body is a request that is decided",
        post("Transfer_Encoding: chunked, evil", "Content-Length: 3", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "chunks without a body", "an end and nothing else", post(CHUNKED, body=EMPTY_CHUNKS + AFTER), Seen(), AFTERWARDS
    ),
    Payload(
        "chunks in HTTP/1.0",
        "a version that knows none: the connection must close at least",
        bare("POST /first HTTP/1.0", HOST, "Connection: keep-alive", CHUNKED) + CHUNKS + HIDDEN,
    ),
)

LENGTHS = tuple(
    Payload(name, tries, post(*lines, body="abc" + HIDDEN))
    for name, tries, lines in (
        ("two lengths", "the first counts, or the last", ["Content-Length: 3", "Content-Length: 45"]),
        ("two lengths in a list", "a list that only some split", ["Content-Length: 3, 45"]),
        ("equal lengths in a list", "what RFC 9110 allows to repair, and who does not", ["Content-Length: 3, 3"]),
        ("no value", "nothing, or 0", ["Content-Length:"]),
        ("plus", "a sign that number parsers take", ["Content-Length: +3"]),
        ("minus", "a negative length", ["Content-Length: -3"]),
        ("minus zero", "nothing, or nonsense", ["Content-Length: -0"]),
        ("hexadecimal", "three in base 16", ["Content-Length: 0x3"]),
        ("underscore", "Python's int takes it", ["Content-Length: 0_3"]),
        ("fraction", "a number that is not whole", ["Content-Length: 3.0"]),
        ("exponent", "a number to JavaScript", ["Content-Length: 3e0"]),
        ("space within", "two numbers, or 33", ["Content-Length: 3 3"]),
        ("letters after", "atoi reads 3", ["Content-Length: 3abc"]),
        ("semicolon after", "a parameter", ["Content-Length: 3;x"]),
        ("comma after", "a list with an empty entry", ["Content-Length: 3,"]),
        ("quoted", "a string", ['Content-Length: "3"']),
        ("digits of another script", "digits to Unicode, as bytes", ["Content-Length: \xb3"]),
        ("more than 64 bits", "wraps around to 3", ["Content-Length: 18446744073709551619"]),
        ("far more than 64 bits", "infinity to some", [f"Content-Length: {'9' * 400}"]),
        ("NUL after the length", "the end of a string in C", ["Content-Length: 3\0"]),
        ("vertical tab before", "white space to some", ["Content-Length: \x0b3"]),
        ("length folded", "the value is on the next line", ["Content-Length:", " 3"]),
        ("length with a space before the colon", "a line that some skip", ["Content-Length : 3"]),
        ("length with a space before the name", "a folded line, or a header line", ["X: y", " Content-Length: 3"]),
        (
            "length with a bare LF before",
            "a line to some, a value to others",
            ["Content-Length: 0", "X: y\rContent-Length: 3"],
        ),
    )
)

LENGTHS_THAT_PASS = (
    passes(
        "equal lengths",
        "repeated by a proxy on the way: nothing is hidden",
        post("Content-Length: 3", "Content-Length: 3", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "leading zeros",
        "octal to nobody: a number of digits",
        post("Content-Length: 0003", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes("white space around", "allowed", post("Content-Length: \t3 ", body="abc" + AFTER), ABC, AFTERWARDS),
    passes(
        "with an underscore (length)",
        "a name that becomes Content-Length in CGI",
        post("Content_Length: 45", "Content-Length: 3", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "GET with a body",
        "CL.0: a body that upstreams ignore is the next request",
        get(f"Content-Length: {len(HIDDEN)}", close=False) + HIDDEN + AFTER,
        Seen("GET", body=HIDDEN.encode()),
        AFTERWARDS,
    ),
    passes("no length", "no body, whatever follows is a request that is decided", post() + AFTER, Seen(), AFTERWARDS),
)

BAD_CHUNKS = tuple(
    Payload(name, tries, post(CHUNKED, body=body + HIDDEN))
    for name, tries, body in (
        ("size that is no number", "skipped, or 0", "x\r\nabc\r\n0\r\n\r\n"),
        ("size with 0x", "0 and an extension, or 3", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("size with a plus", "a sign that number parsers take", "+3\r\nabc\r\n0\r\n\r\n"),
        ("size with a minus", "a negative chunk", "-3\r\nabc\r\n0\r\n\r\n"),
        ("size of more than 64 bits", "wraps around to 3", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("size with an underscore", "Python's int takes it", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("size with a space within", "two numbers, or 33", "3 3\r\nabc\r\n0\r\n\r\n"),
        ("size with a space before", "white space to some", " 3\r\nabc\r\n0\r\n\r\n"),
        ("size missing", "an empty line is 0 to some", "\r\nabc\r\n0\r\n\r\n"),
        ("size ended by a bare LF", "TERM.EXT: a line to some", "3\nabc\r\n0\r\n\r\n"),
        ("size ended by a bare CR", "a line to some", "3\rabc\r\n0\r\n\r\n"),
        ("chunk ended by a bare LF", "EXT.TERM: two bytes are skipped, or one", "3\r\nabc\n0\r\n\r\n"),
        ("chunk without an end", "the next size follows at once", "3\r\nabc0\r\n\r\n"),
        ("chunk longer than its size", "the rest is skipped, or a size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("chunk ended by something else", "two bytes that nobody looks at", "3\r\nabcXX0\r\n\r\n"),
        ("extension with a bare LF", "the line of the size ends there, or later", "3;x\nabc\r\n0\r\n\r\n"),
        ("extension with a bare CR", "the same", "3;x\rabc\r\n0\r\n\r\n"),
        ("NUL in the size", "the end of a string in C", "3\0\r\nabc\r\n0\r\n\r\n"),
        (
            "end without an empty line",
            "the last chunk is the end, or the trailers are",
            "3\r\nabc\r\n0\r\nGET /evil HTTP/1.1\r\n",
        ),
    )
)

ENDLESS = (
    # A number that fits. Nothing after it is a request of its own, and the body comes too slowly in the end.
    Payload(
        "size of nearly 64 bits",
        "negative where it has a sign",
        post(CHUNKED, body="fffffffffffffffd\r\nabc\r\n0\r\n\r\n" + HIDDEN),
        statuses=(408,),
    ),
    Payload(
        "length of nearly 63 bits",
        "the same",
        post(f"Content-Length: {2**63 - 1}", body="abc" + HIDDEN),
        statuses=(408,),
    ),
)

CHUNKS_THAT_PASS = (
    passes(
        "extension",
        "dropped: the upstream's chunks are ours",
        post(CHUNKED, body="3;a=b;c\r\nabc\r\n0;d\r\n\r\n" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "size in capitals, zeros first",
        "a number in base 16",
        post(CHUNKED, body="00000A\r\n0123456789\r\n000\r\n\r\n" + AFTER),
        Seen(body=b"0123456789"),
        AFTERWARDS,
    ),
    passes(
        "request within a chunk",
        "a body that looks like a request",
        post(CHUNKED, body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n{EMPTY_CHUNKS}{AFTER}"),
        Seen(body=HIDDEN.encode()),
        AFTERWARDS,
    ),
    passes(
        "end within a chunk",
        "a body that looks like its end",
        post(CHUNKED, body="5\r\n0\r\n\r\n\r\n" + EMPTY_CHUNKS + AFTER),
        Seen(body=b"0\r\n\r\n"),
        AFTERWARDS,
    ),
)

TRAILERS = tuple(
    passes(
        f"trailer {name}",
        tries,
        post(CHUNKED, *lines, body=f"3\r\nabc\r\n0\r\n{name}: {value}\r\n\r\n{AFTER}"),
        ABC,
        AFTERWARDS,
    )
    for name, value, tries, lines in (
        ("Content-Length", "45", "framing after the body", []),
        ("Transfer-Encoding", "x", "framing after the body", []),
        ("Host", "evil.example", "another site, after the decision", []),
        ("Authorization", "evil", "another identity, after the decision", ["Trailer: Authorization"]),
        ("X-Forwarded-For", "evil", "another address, after the decision", []),
        ("X-Evil", "evil", "a header line like any other, merged by some", ["TE: trailers", "Trailer: X-Evil"]),
    )
)

BAD_LINES = tuple(
    Payload(name, tries, text + HIDDEN)
    for name, tries, text in (
        ("folded", "obs-fold", get("X: a", " b")),
        ("folded by a tab", "obs-fold", get("X: a", "\tb")),
        ("first line folded", "white space before the first header line", bare("GET /first HTTP/1.1", " X: y", HOST)),
        ("blank before the colon", "skipped by some", get("X : y")),
        ("blank within the name", "two names, or one", get("X Y: z")),
        ("no colon", "a line that is none", get("X")),
        ("no name", "a line of a value only", get(": x")),
        ("bare CR in a value", "the end of a line to some", get("X: a\rX-Evil: evil")),
        ("bare CR in a name", "the end of a line to some", get("X\rX-Evil: evil")),
        ("bare LF in a name", "a line without a colon, then another", get("X\nX-Evil: evil")),
        ("NUL in a value", "the end of a string in C", get("X: a\0b")),
        ("NUL in a name", "the end of a string in C", get("X\0: a")),
        ("DEL in a value", "a control character", get("X: a\x7fb")),
        ("escape in a value", "a control character, which terminals obey", get("X: a\x1b[2Jb")),
        ("bytes above 0x7F in a name", "letters to some", get("X\xe9: a")),
        ("parenthesis in a name", "no token", get("X(y): a")),
        ("NUL in the target", "the end of a string in C", get(target="/first\0/x")),
        ("tab in the target", "white space to some", get(target="/first\tx")),
        ("bare CR in the target", "the end of a line to some", get(target="/first\rx")),
        ("space in the target", "the version is the last word, or the third", get(target="/first HTTP/1.1 /evil")),
        ("two spaces after the method", "an empty target", bare("GET  /first HTTP/1.1", HOST)),
        ("tab after the method", "white space to some", bare("GET\t/first HTTP/1.1", HOST)),
        ("method that is no token", "a separator", bare("GE(T /first HTTP/1.1", HOST)),
        ("method with a colon", "a header line as the first line", bare("Host: /first HTTP/1.1", HOST)),
        (
            "method in small letters",
            "hypercorn makes it GET: a rule for GET would be passed by",
            bare("get /first HTTP/1.1", HOST),
        ),
        ("blank after the version", "trimmed by some", bare("GET /first HTTP/1.1 ", HOST)),
    )
)

LINES_THAT_PASS = (
    passes(
        "bare LF as the end of lines",
        "RFC 9112, section 2.2, allows to take it: the upstream gets lines of ours",
        "GET /first HTTP/1.1\nHost: site.example\nX: y\nConnection: close\n\n",
        GOT,
        has=(("x", "y"),),
    ),
    passes(
        "bare LF in a value",
        "the same: another header line, which is decided on",
        get("X: a\nX-Two: b"),
        GOT,
        has=(("x", "a"), ("x-two", "b")),
    ),
    passes("empty lines first", "RFC 9112, section 2.2: skipped", "\r\n\r\n" + get(), GOT),
    passes("bytes above 0x7F in a value", "kept as they are", get("X: \xe9\xff"), GOT, has=(("x", "\xe9\xff"),)),
    passes("empty value", "nothing after the colon", get("X:"), GOT, has=(("x", ""),)),
)

BAD_HOSTS = tuple(
    Payload(name, tries, bare("GET /first HTTP/1.1", *lines) + HIDDEN)
    for name, tries, lines in (
        ("no Host", "the upstream's default site", []),
        ("two Hosts", "the first counts, or the last", [HOST, "Host: evil.example"]),
        ("two equal Hosts", "RFC 9112, section 3.2, says 400", [HOST, HOST]),
        ("empty Host", "the upstream's default site", ["Host:"]),
        ("Host with a path", "the site is before the slash, or all of it", ["Host: site.example/evil"]),
        ("Host with a user", "the site is after the @, or before", ["Host: site.example@evil.example"]),
        ("Host with two ports", "the name is before the first colon, or the last", ["Host: site.example:80:evil"]),
        ("Host with a port of letters", "no number", ["Host: site.example:evil"]),
        ("list of Hosts", "one, or two", ["Host: site.example, evil.example"]),
        ("Host with a blank", "one, or two", ["Host: site.example evil.example"]),
        ("Host with a NUL", "the end of a string in C", ["Host: site.example\0.evil"]),
        ("Host with a bare CR", "the end of a line to some", ["Host: site.example\rX: evil"]),
        ("Host with a query", "the end of the name to some", ["Host: site.example?evil"]),
        ("Host with a fragment", "the end of the name to some", ["Host: site.example#evil"]),
        ("Host with a backslash", "a slash to some", ["Host: site.example\\evil"]),
        ("Host with a scheme", "a URL", ["Host: http://site.example"]),
        ("Host with a blank before the colon", "a second Host that some skip", [HOST, "Host : evil.example"]),
        ("Host that is folded", "a second line of the first", [HOST, " evil.example"]),
        ("Host with a semicolon", "would separate what Forwarded says", ["Host: site.example;for=evil"]),
        ("Host with a quote", "would end what Forwarded says", ['Host: site.example"evil']),
        ("Host of many bytes", "no name is so long", [f"Host: {'a' * 300}"]),
    )
)

HOSTS_THAT_PASS = (
    passes("underscored Host", "a header line of another name in CGI", get("X_Host: evil.example", "Host_: evil"), GOT),
    passes(
        "Host as a name in Connection",
        "it would be removed, and the upstream's default site asked",
        get("Connection: Host"),
        GOT,
    ),
    passes(
        "X-Host and others",
        "what some frameworks take for the Host is passed on, or replaced by ours",
        get("X-Forwarded-Host: evil.example", "Forwarded: host=evil.example"),
        GOT,
        has=(("x-forwarded-host", "site.example"),),
    ),
)

BAD_TARGETS = tuple(
    Payload(name, tries, bare(f"{line} HTTP/1.1", HOST) + HIDDEN)
    for name, tries, line in (
        ("CONNECT", "a tunnel", "CONNECT site.example:80"),
        ("CONNECT to a path", "a tunnel of no authority", "CONNECT /evil"),
        ("authority form", "the form of CONNECT for another method", "GET site.example:80"),
        ("a target without a slash", "relative to what?", "GET first"),
        ("asterisk for GET", "the form of OPTIONS for another method", "GET *"),
        ("a query only", "no path", "GET ?x"),
        ("empty target", "no target", "GET"),
    )
)

TARGETS_THAT_PASS = (
    passes(
        "asterisk", "the server as a whole", bare("OPTIONS * HTTP/1.1", HOST, "Connection: close"), Seen("OPTIONS", "*")
    ),
    passes(
        "absolute form",
        "origin form to the upstream",
        get(target="http://site.example/first?x=%41"),
        Seen("GET", "/first?x=%41"),
    ),
    passes(
        "absolute form with another Host",
        "routed by one, decided by the other: one Host is left",
        get(target="http://evil.example/first"),
        GOT,
    ),
    passes("absolute form of another scheme", "the same", get(target="ftp://evil.example/first"), GOT),
    passes(
        "two slashes first",
        "a Host to some parsers of URLs",
        get(target="//other.example/x"),
        Seen("GET", "//other.example/x"),
    ),
    passes(
        "dots and escapes",
        "normalised by one and not the other",
        get(target="/a/..%2fb/%2e%2e/c;x=1//d?e=/../f"),
        Seen("GET", "/a/..%2fb/%2e%2e/c;x=1//d?e=/../f"),
    ),
    passes(
        "escaped line ends",
        "lines to what decodes them",
        get(target="/first%0d%0aX-Two:%20b"),
        Seen("GET", "/first%0d%0aX-Two:%20b"),
    ),
)

VERSIONS = (
    Payload("HTTP/0.9", "no headers, no framing", "GET /first\r\n" + HIDDEN),
    Payload("HTTP/1.2", "a version that is none", bare("GET /first HTTP/1.2", HOST) + HIDDEN),
    Payload("HTTP/2.0 as text", "a version that is not spoken like this", bare("GET /first HTTP/2.0", HOST) + HIDDEN),
    Payload("version in small letters", "another protocol", bare("GET /first http/1.1", HOST) + HIDDEN),
    Payload("version of many digits", "HTTP/1.1, or 1.10", bare("GET /first HTTP/1.10", HOST) + HIDDEN),
    Payload("another protocol", "RTSP looks much the same", bare("GET /first RTSP/1.0", HOST) + HIDDEN),
    # The server speaks HTTP/2 from here on, and answers with frames.
    Payload(
        "the preface of HTTP/2",
        "a request named PRI, then what follows",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
        statuses=(),
    ),
    passes(
        "HTTP/1.0", "closes after the answer: what follows is not read", bare("GET /first HTTP/1.0", HOST) + HIDDEN, GOT
    ),
    passes(
        "HTTP/1.0 with a length",
        "the same",
        bare("POST /first HTTP/1.0", HOST, "Content-Length: 3") + "abc" + HIDDEN,
        ABC,
    ),
)

UPGRADES = (
    passes(
        "h2c",
        "frames past the shield, after a 101",
        get(
            "Connection: Upgrade, HTTP2-Settings, close",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            close=False,
        ),
        GOT,
    ),
    passes(
        "h2c in one word of Connection",
        "the settings are passed on",
        get("Connection: Upgrade, close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", close=False),
        GOT,
    ),
    passes(
        "h2c in a list",
        "the upstream chooses",
        get("Connection: upgrade, close", "Upgrade: foo/1, h2c", close=False),
        GOT,
    ),
    passes(
        "WebSocket without Connection",
        "an upgrade that nobody asked for",
        get("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        GOT,
    ),
    passes("TLS", "an upgrade of RFC 2817", get("Connection: Upgrade, close", "Upgrade: TLS/1.0", close=False), GOT),
)

CONNECTION = (
    passes(
        "names Authorization",
        "the shield sees an identity, the upstream none: as the RFC has it, and nobody gains",
        get("Authorization: Bearer evil", "Connection: Authorization, close", close=False),
        GOT,
    ),
    passes(
        "names Content-Length",
        "the body would be the next request",
        post("Content-Length: 3", "Connection: Content-Length", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "names Transfer-Encoding",
        "the chunks would be the next request",
        post(CHUNKED, "Connection: Transfer-Encoding", body=CHUNKS + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "names X-Forwarded-For",
        "the upstream would not know the client",
        get("Connection: X-Forwarded-For, Forwarded, X-Forwarded-Proto, close", close=False),
        GOT,
        has=(("x-forwarded-for", "127.0.0.1"),),
    ),
    passes(
        "names Via",
        "a loop would not be seen",
        get("Connection: Via, close", close=False),
        GOT,
        has=(("via", "1.1 shieldmw"),),
    ),
    passes(
        "names a line of the client's",
        "removed, in any case and with blanks",
        get("X-Evil: evil", "Connection: x-eVIL , close", close=False),
        GOT,
    ),
    passes(
        "in two lines",
        "the second is missed",
        get("X-Evil: evil", "Connection: close", "Connection: X-Evil", close=False),
        GOT,
    ),
    passes("Proxy-Connection", "an old name for it", get("X: y", "Proxy-Connection: evil"), GOT, has=(("x", "y"),)),
    passes("Keep-Alive", "parameters of this connection", get("Keep-Alive: evil=1"), GOT),
    passes("Proxy-Authorization", "credentials for us", get("Proxy-Authorization: Basic evil"), GOT),
    passes("TE, not named", "the upstream would send trailers", get("TE: trailers"), GOT),
    passes("TE", "what this connection can read", get("TE: trailers, evil", "Connection: TE, close", close=False), GOT),
)

EXPECT = (
    passes(
        "100-continue, body at once",
        "an upstream that answers early takes the body for a request",
        post("Expect: 100-continue", f"Content-Length: {len(HIDDEN)}", body=HIDDEN + AFTER),
        Seen(body=HIDDEN.encode()),
        AFTERWARDS,
        statuses=(100, 200, 200),
    ),
    passes(
        "100-continue without a body",
        "one waits for a body, the other does not",
        get("Expect: 100-continue", close=False) + AFTER,
        GOT,
        AFTERWARDS,
    ),
    passes("another expectation", "417, or ignored", get("Expect: evil", close=False) + AFTER, GOT, AFTERWARDS),
    passes(
        "100-continue with something before",
        "compared, or searched for",
        post("Expect: y 100-continue", "Content-Length: 3", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
    ),
    passes(
        "100-continue twice",
        "one is removed, one stays",
        post("Expect: 100-continue", "Expect: 100-continue", "Content-Length: 3", body="abc" + AFTER),
        ABC,
        AFTERWARDS,
        statuses=(100, 200, 200),
    ),
)

UNDERSCORES = (
    passes(
        "X_Forwarded_For",
        "the client's address in CGI and WSGI",
        get("X_Forwarded_For: evil", "X-Forwarded_For: evil"),
        GOT,
    ),
    passes("X_Real_IP", "the same", get("X_Real_IP: evil"), GOT),
    passes("Remote_User", "an identity in CGI", get("Remote_User: evil", "X_Remote-User: evil"), GOT),
)

# /early is answered before the body is read.
PIPELINING = (
    passes(
        "two requests",
        "each is decided and answered, in order",
        post(body=get(target="/second", close=False) + AFTER),
        Seen(),
        Seen("GET", "/second"),
        AFTERWARDS,
    ),
    passes(
        "early answer, then a body",
        "CL.0: what the upstream has not read must not be its next request",
        post(f"Content-Length: {len(HIDDEN)}", target="/early", body=HIDDEN + AFTER),
        Seen("POST", "/early"),
        AFTERWARDS,
    ),
    passes(
        "early answer, then chunks",
        "TE.0: the same",
        post(CHUNKED, target="/early", body=f"{len(HIDDEN):x}\r\n{HIDDEN}\r\n{EMPTY_CHUNKS}{AFTER}"),
        Seen("POST", "/early"),
        AFTERWARDS,
    ),
    Payload(
        "after a refusal",
        "what follows a refused request is not looked at",
        bare("GET /first HTTP/1.1", HOST, "Host: b") + HIDDEN + AFTER,
    ),
    Payload(
        "body of a refused request",
        "0.CL: the body of what was refused is a request",
        bare("POST /first HTTP/1.1", HOST, "Host: b", f"Content-Length: {len(HIDDEN)}") + HIDDEN + AFTER,
    ),
    Payload(
        "after a good one",
        "the second is ambiguous: only the first is seen",
        get(close=False) + post("Content-Length: +3", body="abc" + HIDDEN),
        (GOT,),
        (200, 400),
    ),
)

REQUESTS: tuple[Payload, ...] = (
    *LENGTH_AND_CHUNKS,
    *CODINGS,
    *CODINGS_THAT_PASS,
    *LENGTHS,
    *LENGTHS_THAT_PASS,
    *BAD_CHUNKS,
    *ENDLESS,
    *CHUNKS_THAT_PASS,
    *TRAILERS,
    *BAD_LINES,
    *LINES_THAT_PASS,
    *BAD_HOSTS,
    *HOSTS_THAT_PASS,
    *BAD_TARGETS,
    *TARGETS_THAT_PASS,
    *VERSIONS,
    *UPGRADES,
    *CONNECTION,
    *EXPECT,
    *UNDERSCORES,
    *PIPELINING,
)
