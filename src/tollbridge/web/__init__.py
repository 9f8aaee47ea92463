"""Pages: everything that is not `/v1`, on Starlette and Jinja2. Imported soon after the start.

A page is a function and a template. `pages.PAGES` lists them all and who may see each; nothing else decides that.

app      `Web`, the ASGI application: host, body, session, permission, CSRF, the page, errors, headers, in this order
pace     when a page may begin, so that calls go on
page     `Page`, a row of the list, and `Who` may see it: ANYONE, USER, MEMBER …, OPERATOR; `access` decides it
visit    `Visit`, what a page's function is given: who asks, the form, `render`, `redirect`
forms    the fields of a form and what is wrong with them
render   Jinja2 and its filters, `static` the files beside it, `deeds` what was done in words
guard    origin, CSRF, Content-Security-Policy and the other headers
menu     what the side bar shows
login, oidc, passkeys, account, members: pages about people; each module of pages has a tuple PAGES
issuers  the services that `oidc` logs in with, and asking them
dashboard, usage, requests, keys: what an account does; `api` the same for programs
billing, billing_plan, billing_papers: what it pays; `billing_api` the same for programs
admin, admin_accounts, admin_payments, admin_catalog, admin_books, outbox: for operators
home, models, pricing, status, legal, docs: public pages; `guide/` holds the texts of docs
markdown, snippets: texts and code as HTML
openapi, openapi_types: the API as a document, generated from what the endpoints check
playground: chat in the browser, through the edge
"""
