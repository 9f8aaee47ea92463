"""What people do, called by the command line, pages, jobs and webhooks alike. Each function is one use case.

`secrets` the master secret and what follows from it · `accounts`, `keys`, `credit` · `statement` an account's books ·
`catalog` what is for sale · `first_run` what a new gateway begins with · `doctor` whether it can work here · `restore`.
"""
