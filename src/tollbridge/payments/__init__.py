"""Money in: how each payment method takes it, and how what it reports is checked.

`base` what every method promises · `stripe` payment by card, `stripe_subscriptions` by the month, both on the pages of
`stripe_checkout` and through `stripe_api`, which answers in `stripe_objects` · `webhook` Stripe's signed events ·
`manual` bank transfers, and the demo payment. What a payment does to the books is in `core.payments`.
"""
