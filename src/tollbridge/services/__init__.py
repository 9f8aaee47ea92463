"""What people do; called by the command line, pages, jobs and webhooks alike. Each function is one use case.

- A gateway: `first_run` what a new one begins with · `doctor` whether it can work here · `secrets` the master secret
  and what follows from it, `rotation` its replacement · `catalog`, `plans` what is for sale · `providers` whether they
  answer · `restore`, `transfer`.
- People: `register`, `login`, `sessions`, `passwords`, `passkeys`, `two_factor`, `identities`, `credentials` ·
  `members` · `operators` · `throttle` how often something may be tried · `mail`, `letters`, `notices` · `leave`.
- Accounts: `accounts` · `keys`, `account_keys`, `reveal`, `management_keys`, `byok`, `playground` · `credit`,
  `vouchers` · `standing`, `usage`, `balance_changes`, `statements` · `deeds` what was done in them · `export`.
- Money: `payments`, `top_ups`, `subscriptions`, `refunds`, `invoices` · `oversight` and `margins` for operators.

`desk` is what most of them work with.
"""
