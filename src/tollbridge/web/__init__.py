"""Pages: everything that is not `/v1`, on Starlette and Jinja2. Imported soon after the start.

A page is a function and a template. `pages.PAGES` lists them all and who may see each; nothing else decides that.

app      `Web`, the ASGI application: host, session, permission, CSRF, the page, errors, headers, in this order
page     `Page`, a row of the list, and `Who` may see it: ANYONE, USER, MEMBER …, OPERATOR
visit    `Visit`, what a page's function is given: who asks, the form, `render`, `redirect`
forms    the fields of a form and what is wrong with them
render   Jinja2, its filters, the static files
guard    origin, CSRF, Content-Security-Policy and the other headers
menu     what the side bar shows
login, account, members, outbox: pages about people; each has a tuple PAGES
markdown, snippets: texts and code as HTML
home, models, pricing, status, legal, docs: public pages; `guide/` holds the texts of docs
openapi, openapi_types: the API as a document, generated from what the endpoints check
playground: chat in the browser, through the edge
"""
