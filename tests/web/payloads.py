"""Texts that, if not escaped, would run, call another site or break a page (J7): 20 kinds, in 10 wrappings."""

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    '" autofocus onfocus="alert(1)',
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "${alert(1)}",
    "</title><script>alert(1)</script>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<a href='javascript:alert(1)'>x</a>",
    "<style>@import 'http://127.0.0.1:9/x'</style>",
    "<base href='http://127.0.0.1:9/'>",
    "<form action='http://127.0.0.1:9/'><input name=csrf>",
    "\u202ereversed\u202c ",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "--><!--><script>alert(1)</script>",
    "<svg><animate onbegin=alert(1) attributeName=x dur=1s>",
    "<details open ontoggle=alert(1)>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
)
# Where they could appear: alone, in a sentence, an attribute, elements that contain only text, a script, Markdown.
WRAPPINGS = (
    "{}",
    "a {} z",
    '">{}',
    "'>{}<b id='",
    "</textarea></option></select>{}",
    "</script></style>{}",
    "[x]({}) ![x]({})",
    "`{}",
    '";{};//',
    "&lt;{}&gt;&#60;",
)
ALL = tuple(wrapping.replace("{}", payload) for wrapping in WRAPPINGS for payload in PAYLOADS)
