"""Money in: how each payment method takes it, and how what it says is checked.

`base` what a method promises · `stripe` payment by card, through Stripe's HTTP API · `webhook` its signed events ·
`manual` bank transfers, and the demo payment. What a payment does to the books is `core.payments`.
"""
