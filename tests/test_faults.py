"""What goes wrong around a gateway that handles money, and the tests that show what happens then.

`FAULTS` lists every fault and attack that the design reckons with: of money (A), keys and log-ins (B), tenants (C),
limits (D), providers (E), callers (F), processes (G), storage (H), payments (I), and of input, operators and what is
shipped (J). A row names the tests that would fail if it were handled worse, files first: of several names behind one
file each is in that file.
"""

import re
from typing import NamedTuple

import pytest
from tests.test_known_bad import exists


class Fault(NamedTuple):
    id: str
    what: str
    # `folder/test_file.py::test_name test_other_name`, in `tests/`.
    tests: tuple[str, ...]


def row(id_: str, what: str, *tests: str) -> Fault:
    return Fault(id_, what, tests)


RULES = "test_source_rules.py::test_the_sources_keep_the_rule"
PLAIN = "gateway/test_upstream_faults.py::"
CALLERS = "gateway/test_client_faults.py::"
INPUT = "gateway/test_input_faults.py::"
CONTRACT = "store/ledger/test_contract.py::"
SQLITE = "store/ledger/test_sqlite.py::"
OUTAGES = "store/ledger/test_postgres_outages.py::"
ACCESS = "web/test_access.py::"
KEYS = "services/test_keys.py::"
TRIALS = "gateway/test_provider_trials.py::test_every_fault_of_a_provider_ends_as_it_must"

FAULTS = (
    row(
        "A1",
        "fifty at once with money for ten",
        CONTRACT + "test_fifty_at_once_with_money_for_ten",
        "gateway/test_races.py::test_fifty_at_once_with_money_for_ten",
        "processes/test_races.py::test_fifty_at_once_with_money_for_ten",
        "store/ledger/test_postgres_races.py::test_fifty_at_once_with_money_for_ten",
    ),
    row(
        "A2",
        "the same with a key's limit",
        CONTRACT + "test_fifty_at_once_on_a_key_with_a_limit_for_ten",
        "gateway/test_races.py::test_fifty_at_once_with_a_key_for_ten",
        "processes/test_races.py::test_fifty_at_once_on_a_key_with_a_limit_for_ten",
    ),
    row(
        "A3",
        "no reservation for the rich",
        CONTRACT + "test_the_rich_hold_like_everybody",
        "gateway/test_races.py::test_the_rich_are_held_to_their_money_too",
    ),
    row(
        "A4",
        "the first requests of somebody new, at once",
        "gateway/test_races.py::test_first_requests_of_a_new_account_are_limited_like_all_others",
        "store/ledger/test_postgres_races.py::test_a_key_limit_holds_from_the_very_first_request",
    ),
    row(
        "A5",
        "an end twice",
        "core/test_ledger.py::test_any_interleaving_keeps_the_books",
        CONTRACT + "test_a_second_end_returns_the_first_result_even_to_another_process",
    ),
    row(
        "A6",
        "an end after the hold expired",
        "core/test_ledger.py::test_a_late_end_is_charged_once",
        CONTRACT + "test_a_swept_hold_is_charged_its_last_checkpoint_and_its_late_end_the_rest"
        " test_a_late_end_that_is_not_more_changes_nothing"
        " test_a_late_end_is_spent_of_the_limit_of_its_key_and_no_more_than_is_left",
    ),
    row(
        "A7",
        "it costs more than its hold",
        CONTRACT + "test_what_cannot_be_charged_is_a_loss_and_never_a_negative_balance",
        "gateway/test_charges.py::test_what_goes_beyond_hold_and_balance_is_our_loss"
        " test_answer_above_its_hold_is_paid_from_the_rest_of_the_balance",
    ),
    row(
        "A8",
        "rounding, floats",
        "core/test_money.py::test_charge_is_the_exact_value_rounded_up_once test_the_rules_of_money_know_no_float",
        "test_money_is_integer.py::test_no_column_of_the_store_rounds",
    ),
    row(
        "A9",
        "numbers too large",
        "core/test_ledger.py::test_an_amount_out_of_range_is_refused_everywhere test_a_sum_out_of_range_is_refused",
        "services/test_credit.py::test_a_balance_never_outgrows_its_column",
    ),
    row(
        "A10",
        "a price that changes while a request runs",
        "gateway/test_prices.py::test_a_request_is_charged_by_the_terms_of_its_time_and_keeps_them",
    ),
    row(
        "A11",
        "from a free model to a paid one",
        PLAIN + "test_dearer_route_is_called_only_after_the_hold_covers_it",
        "gateway/test_preferences.py::test_free_model_that_fails_never_leads_to_a_paid_call_without_money",
    ),
    row(
        "A12",
        "several tries",
        "gateway/test_preferences.py::test_a_request_that_is_tried_again_is_charged_once_for_what_answered",
    ),
    row(
        "A13",
        "reading billed",
        "gateway/test_races.py::test_reading_costs_nothing",
        "gateway/test_lookups.py::test_asking_never_writes",
    ),
    row("A14", "one voucher, two people", "payments/test_vouchers.py::test_of_many_at_once_one_gets_it"),
    row(
        "A15",
        "a refund twice",
        "payments/test_refunds.py::test_a_refund_that_stripe_did_not_answer_happens_once",
        "payments/test_refund_kill.py::test_a_refund_that_was_cut_off_happened_once_or_not_at_all",
    ),
    row(
        "A16",
        "an operator's double click",
        "services/test_credit.py::test_of_fifty_at_once_one_grant_is_made test_an_idempotency_key_is_for_one_grant",
        "web/test_audit.py::test_a_double_click_on_the_credit_page_credits_once",
        "gateway/test_replays.py::test_of_fifty_at_once_one_is_answered_and_charged",
    ),
    row(
        "A17",
        "amounts that are none",
        "services/test_credit.py::test_an_amount_that_cannot_be_is_refused",
        "cli/test_commands.py::test_an_amount_that_is_none_is_refused test_there_are_enough_bad_amounts",
        "web/test_amounts.py::test_a_form_reads_what_people_mean_and_nothing_else test_there_are_enough"
        " test_no_form_takes_what_is_no_amount test_no_program_hands_in_what_is_no_amount"
        " test_no_call_is_made_under_a_cap_that_is_no_amount",
    ),
    row(
        "A18",
        "books edited by hand",
        "store/test_verify.py::test_an_edit_of_any_column_is_found test_enough_columns_were_tried",
        "payments/test_verify_payments.py::test_each_tampering_is_named",
    ),
    row(
        "A19",
        "a month's credit twice",
        "services/test_plans.py::test_included_credit_is_filled_up_once_in_each_of_two_hundred_months",
    ),
    row(
        "A20",
        "one account with five hundred calls a second",
        CONTRACT + "test_one_account_with_five_hundred_calls_a_second",
        "gateway/test_races.py::test_hot_account_makes_no_deadlock",
        "store/ledger/test_postgres_races.py::test_a_hot_account_and_crossing_batches_meet_no_deadlock",
        "processes/test_races.py::test_one_account_on_all_processes_meets_no_deadlock",
    ),
    row("B1", "SQL where a key should be", RULES, KEYS + "test_sql_in_an_id_or_address_is_text"),
    row(
        "B2",
        "a flood of made-up keys",
        "core/test_keys.py::test_a_hundred_thousand_made_up_keys_are_refused"
        " test_a_hundred_thousand_mutated_keys_are_refused",
        "gateway/test_callers.py::test_a_flood_of_made_up_keys_never_reaches_the_database",
        "gateway/test_abuse.py::test_who_tries_many_keys_is_told_to_stop_while_good_keys_from_there_are_answered",
    ),
    row(
        "B3",
        "keys that look alike",
        KEYS + "test_keys_that_share_their_beginning_are_strangers test_ten_thousand_digests_of_similar_keys_differ",
    ),
    row(
        "B4",
        "a revoked key",
        KEYS + "test_a_revoked_key_stops_at_its_next_call",
        "cli/test_serve.py::test_a_revoked_key_and_a_frozen_account_stop_within_a_second",
        "processes/test_races.py::test_a_revoked_key_stops_on_every_process",
    ),
    row(
        "B5",
        "two headers with keys",
        INPUT + "test_two_different_keys_are_refused_and_the_same_one_twice_is_fine",
        "gateway/test_plans.py::test_a_key_is_used_from_its_own_addresses_alone",
    ),
    row("B6", "a Host that leads elsewhere", ACCESS + "test_a_host_that_is_not_ours_is_refused_on_every_page"),
    row(
        "B7",
        "more rights than their maker's",
        ACCESS + "test_every_page_lets_in_whom_it_should_and_nobody_else",
        "web/test_members.py::test_who_is_invited_joins_with_their_role_and_can_be_removed",
    ),
    row(
        "B8",
        "passwords in a stolen database",
        "services/test_passwords.py::test_a_hash_is_argon2id_with_the_parameters_of_the_rules_and_matches_its_password_alone",
    ),
    row(
        "B9",
        "guessing passwords",
        "services/test_throttle.py::test_a_guesser_with_many_addresses_gets_a_hundred_guesses_a_day",
        "web/test_login.py::test_guessing_is_slowed_and_the_owner_gets_in_from_elsewhere",
    ),
    row(
        "B10",
        "hashing as a lever",
        "services/test_passwords.py::test_more_than_can_wait_are_refused",
        "web/test_login.py::test_many_log_ins_at_once_leave_room_for_calls"
        " test_two_hundred_log_ins_at_once_cost_the_process_little_memory_and_calls_go_on",
    ),
    row(
        "B11",
        "who has an account",
        "web/test_login.py::test_nobody_learns_who_has_an_account test_time_does_not_tell_either",
    ),
    row("B12", "a poisoned link", "web/test_reset.py::test_no_header_changes_where_links_lead"),
    row(
        "B13",
        "a link used twice",
        "services/test_credentials.py::test_of_many_who_follow_a_link_at_once_one_gets_in",
        "web/test_reset.py::test_a_reset_link_is_good_once_ends_all_sessions_and_lets_the_new_password_in"
        " test_links_end_with_their_time_and_are_not_in_the_database_as_they_are",
    ),
    row(
        "B14",
        "stolen and fixed sessions",
        "web/test_sessions.py::test_a_session_has_a_new_id_at_each_log_in_and_a_cookie_that_scripts_and_other_sites_cannot_use",
    ),
    row("B15", "forged forms", ACCESS + "test_no_form_is_taken_from_another_site_or_without_its_token"),
    row(
        "B16",
        "operators' log-in",
        "web/test_two_factor.py::test_a_second_factor_is_asked_for_and_each_code_is_good_once"
        " test_operators_work_with_a_second_factor_only_and_keep_it",
    ),
    row("B17", "secrets compared in their own time", RULES, "test_source_rules.py::test_a_compared_secret_is_found"),
    row(
        "B18",
        "passwords that everybody knows",
        "services/test_operators.py::test_the_first_start_has_a_link_until_there_is_a_password",
    ),
    row(
        "B19",
        "credit farmed with addresses",
        "web/test_login.py::test_first_credit_goes_to_a_mailbox_once",
        "services/test_register.py::test_who_signs_up_again_and_again_is_given_no_more_than_the_caps",
    ),
    row(
        "B20",
        "keys shown again",
        KEYS + "test_nothing_in_the_database_gives_a_key_away",
        "cli/test_commands.py::test_a_list_of_keys_begins_each_line_with_the_id_and_shows_no_key",
    ),
    row(
        "C1",
        "somebody else's ids",
        ACCESS
        + "test_nobody_reaches_what_is_somebody_elses test_every_page_stands_in_the_table_and_the_other_way_round",
        "gateway/test_lookups.py::test_nobody_sees_the_request_of_another_account",
    ),
    row("C2", "somebody else's ids inside a body", ACCESS + "test_nobody_reaches_what_is_somebody_elses"),
    row(
        "C3",
        "answers kept for others",
        "gateway/test_replays.py::test_a_key_stands_for_one_request_of_one_account"
        " test_a_kept_answer_is_given_to_its_own_account_alone",
    ),
    row(
        "C4",
        "interleaved callers",
        "gateway/test_isolation.py::test_interleaved_callers_never_see_each_others_bytes",
        "web/test_app.py::test_pages_of_two_people_at_once_are_not_mixed_up",
    ),
    row(
        "C5",
        "the rest of somebody else's stream",
        "upstream/test_connection_flow.py::test_c5_nobody_reads_the_rest_of_anothers_stream",
        "gateway/test_isolation.py::test_many_interleaved_callers_never_see_each_others_bytes",
    ),
    row("C6", "low roles", ACCESS + "test_every_page_lets_in_whom_it_should_and_nobody_else"),
    row(
        "C7",
        "an account that has left",
        "web/test_leaving.py::test_who_leaves_takes_their_data_along_and_is_forgotten_but_for_the_books",
    ),
    row(
        "C8",
        "figures that forget who asks",
        KEYS + "test_nobody_reaches_the_key_of_another_account",
        ACCESS + "test_nobody_reaches_what_is_somebody_elses",
    ),
    row("C9", "ids that can be guessed", "gateway/test_lookups.py::test_made_up_ids_lead_nowhere"),
    row(
        "D1",
        "a burst at the minute's border",
        "limits/test_memory.py::test_ten_thousand_patterns_of_arrivals",
        "limits/test_limits.py::test_no_minute_brings_more_than_its_bound",
    ),
    row(
        "D2",
        "many large requests at once",
        "gateway/test_limits_of_requests.py::test_tokens_of_two_hundred_large_requests_at_once_are_reserved_and_reconciled",
    ),
    row(
        "D3",
        "one limit on many processes",
        "limits/test_redis.py::test_a_limit_is_one_limit_on_four_processes"
        " test_a_limit_is_one_limit_on_sixteen_processes",
        "processes/test_races.py::test_a_strict_limit_is_one_limit_on_all_processes",
    ),
    row(
        "D4",
        "the limits' server away",
        "limits/test_redis.py::test_each_node_limits_its_share_while_the_server_is_away test_a_hundred_outages",
        "gateway/test_limits_of_requests.py::test_without_the_limits_server_calls_go_on_within_their_share",
        "processes/test_outages.py::test_limits_hold_while_the_shared_counters_are_away",
    ),
    row(
        "D5",
        "the limits' server forgets",
        "limits/test_redis.py::test_a_flush_gives_one_burst_at_most",
        "processes/test_outages.py::test_counters_that_are_forgotten_allow_one_more_burst_and_no_more_money",
    ),
    row(
        "D6",
        "an input larger than the limit",
        "gateway/test_limits_of_requests.py::test_input_that_can_never_fit_is_told_so_and_not_sent_again",
    ),
    row(
        "D7",
        "places that are not given back",
        "gateway/test_limits_of_requests.py::test_five_hundred_cut_requests_leave_no_place_and_no_tokens_behind",
        "limits/test_redis.py::test_places_of_a_process_that_died_come_back",
    ),
    row(
        "D8",
        "headers that are not true",
        "gateway/test_limits_of_requests.py::test_the_official_client_waits_as_long_as_it_is_told_and_is_let_in_the_first_time",
    ),
    row(
        "D9",
        "many keys of one account",
        "gateway/test_limits_of_requests.py::test_many_keys_of_an_account_gain_nothing",
    ),
    row(
        "D10",
        "clocks that jump",
        "limits/test_memory.py::test_a_clock_that_jumps_neither_frees_nor_freezes",
        "limits/test_redis.py::test_a_nodes_clock_that_jumps_neither_frees_nor_freezes",
    ),
    row("D11", "refused calls", "limits/test_limits.py::test_refused_calls_cost_nothing"),
    row(
        "D12",
        "calls at one time",
        "gateway/test_limits_of_requests.py::test_of_two_hundred_at_once_as_many_run_as_may",
    ),
    row(
        "E1",
        "nobody answers",
        PLAIN + "test_provider_that_hangs_up_is_unavailable_and_free"
        " test_provider_that_cannot_be_reached_is_left_for_the_next",
        "upstream/test_fetch.py::test_certificate_is_that_of_the_name",
        TRIALS,
    ),
    row(
        "E2",
        "no first byte",
        PLAIN + "test_silent_provider_times_out_and_is_free",
        "upstream/test_connection.py::test_e2_an_upstream_that_does_not_answer_times_out",
    ),
    row(
        "E3",
        "the provider's limit",
        PLAIN + "test_providers_limit_is_passed_on_within_bounds test_limited_provider_is_left_alone_while_it_cools",
        "core/test_retry.py::test_cool_down_is_bounded_whatever_the_provider_says",
        TRIALS,
    ),
    row(
        "E4",
        "the provider's mistakes",
        PLAIN + "test_failing_provider_is_asked_at_most_three_times test_retries_stay_within_a_fifth_of_the_traffic",
        "core/test_retry.py::test_budget_allows_three_retries_or_a_fifth_of_the_traffic",
        TRIALS,
    ),
    row("E5", "our credential is refused", PLAIN + "test_trouble_with_our_credential_is_not_the_callers", TRIALS),
    row("E6", "the provider rejects it", PLAIN + "test_what_the_provider_rejects_is_passed_on_redacted", TRIALS),
    row(
        "E7",
        "a stream that is reset",
        PLAIN + "test_stream_that_is_reset_anywhere_ends_in_an_error_and_is_free",
        "upstream/test_connection_flow.py::test_e7_a_stream_cut_after_any_byte_ends_in_one_error",
        "gateway/test_charges.py::test_answer_that_the_provider_broke_off_costs_what_the_operator_says",
        TRIALS,
    ),
    row(
        "E8",
        "an error in a 200",
        PLAIN + "test_error_event_before_any_output_moves_on_to_the_next_route test_error_in_a_200_is_an_error",
        "gateway/test_charges.py::test_error_of_the_provider_in_the_middle_is_never_counted_as_output",
        TRIALS,
    ),
    row(
        "E9",
        "a stream without its end or usage",
        PLAIN + "test_stream_without_its_end_mark_is_whole_when_it_finished",
        "gateway/test_charges.py::test_finished_without_usage_is_counted_here",
        "core/test_tokens.py::test_local_count_of_a_mixed_corpus_is_within_five_percent",
        TRIALS,
    ),
    row(
        "E10",
        "usage again and again",
        "gateway/test_charges.py::test_stream_is_charged_once_however_often_usage_is_reported",
        "gateway/test_request.py::test_late_usage_counts_even_when_it_comes_after_the_end",
        TRIALS,
    ),
    row(
        "E11",
        "usage of zero",
        "gateway/test_request.py::test_usage_of_zero_is_believed",
        "gateway/test_charges.py::test_usage_of_zero_costs_nothing_in_a_stream_too",
        TRIALS,
    ),
    row(
        "E12",
        "absurd usage",
        "gateway/test_request.py::test_usage_that_cannot_be_true_is_counted_here_and_marked",
        TRIALS,
    ),
    row(
        "E13",
        "malformed events",
        PLAIN + "test_events_split_anywhere_arrive_whole",
        "wire/test_sse.py::test_malformed_streams_are_read_as_the_standard_says_however_they_are_cut"
        " test_an_event_above_the_limit_breaks_it_after_what_came_before",
    ),
    row(
        "E14",
        "a stream without end",
        PLAIN + "test_endless_stream_is_cut_and_charged_within_its_hold",
        "upstream/test_connection.py::test_e14_an_endless_stream_is_cut_at_its_total_time",
    ),
    row(
        "E15",
        "a stream that drips",
        "upstream/test_connection.py::test_e15_a_body_that_drips_within_the_gap_is_read_to_its_end"
        " test_a_head_that_drips_times_out_as_a_whole",
    ),
    row(
        "E16",
        "compressed bombs",
        PLAIN + "test_compressed_answers_are_refused_unread",
        "upstream/test_connection.py::test_a_body_has_a_greatest_size",
        TRIALS,
    ),
    row("E17", "the provider's headers", PLAIN + "test_headers_of_the_provider_stay_behind", TRIALS),
    row("E18", "redirects", PLAIN + "test_redirect_is_not_followed", TRIALS),
    row("E19", "answers that make no sense", PLAIN + "test_answer_that_makes_no_sense_is_said_to", TRIALS),
    row(
        "E20",
        "one slow provider",
        "upstream/test_pool.py::test_a_slow_upstream_does_not_slow_another_ones_pool",
    ),
    row(
        "E21",
        "flapping",
        "core/test_retry.py::test_flapping_upstream_is_called_little_while_down_and_again_soon_after",
        PLAIN + "test_flapping_provider_is_left_alone test_refusals_that_are_no_failure_of_a_provider_never_shut_it",
    ),
    row("E22", "all providers down", PLAIN + "test_when_all_providers_are_down_the_answer_is_quick"),
    row(
        "F1",
        "gone before the first token",
        CALLERS + "test_leaving_before_the_first_token_costs_the_prompt_unless_the_provider_was_silent"
        " test_of_two_hundred_who_leave_before_the_first_token_each_pays_what_is_due",
    ),
    row(
        "F2",
        "gone in the middle",
        CALLERS + "test_stream_cut_at_any_byte_is_charged_what_was_reported_or_produced"
        " test_many_streams_cut_at_any_byte_are_charged_what_was_reported_or_produced"
        " test_only_so_many_streams_are_read_on_and_only_for_so_long",
    ),
    row(
        "F3",
        "gone before a whole answer",
        CALLERS + "test_whole_answer_is_fetched_and_charged_whenever_the_caller_leaves",
    ),
    row(
        "F4",
        "slow readers",
        CALLERS + "test_slow_readers_slow_the_provider_down_and_are_cut",
        "edge/test_connection_clients.py::test_slow_readers_cost_bounded_memory",
    ),
    row(
        "F5",
        "slow writers",
        "edge/test_connection_deadlines.py::test_slow_clients_do_not_slow_the_others_and_are_all_closed"
        " test_dripping_gains_no_time_for_a_head"
        " test_a_body_that_is_not_whole_in_time_is_a_408_from_the_application_that_waits_for_it",
    ),
    row(
        "F6",
        "half-open connections",
        "edge/test_connection_clients.py::test_a_reader_that_takes_nothing_is_cut",
        "edge/test_connection_deadlines.py::test_an_idle_connection_is_closed_and_a_used_one_is_not",
    ),
    row(
        "F7",
        "thousands of idle connections",
        "edge/test_connection_clients.py::test_thousands_of_idle_connections_cost_nothing_but_themselves"
        " test_connections_are_capped_in_all_and_beyond_the_answer_too",
    ),
    row(
        "F8",
        "asking again",
        CALLERS + "test_same_request_twice_is_two_charges_with_an_id_each",
        "gateway/test_replays.py::test_two_hundred_callers_who_gave_up_and_asked_again_are_charged_once_each",
    ),
    row(
        "F9",
        "smuggled requests",
        "edge/test_connection_framing.py::test_an_ambiguous_head_is_a_400_and_the_end"
        " test_an_ambiguous_chunk_is_a_400_and_the_end test_whatever_comes_is_answered_or_ends_the_connection",
        "deploy/test_proxies.py::test_nothing_is_smuggled_past_it",
    ),
    row(
        "F10",
        "too much of anything",
        CALLERS + "test_too_much_of_anything_is_refused_at_once_and_unread",
        "edge/test_connection_framing.py::test_the_largest_head_is_taken_and_a_larger_one_is_not",
    ),
    row("F11", "compressed requests", CALLERS + "test_compressed_requests_are_refused_unread"),
    row(
        "F12",
        "burning the operator's money",
        CALLERS + "test_every_cut_pays_for_its_prompt_and_too_many_are_stopped"
        " test_a_thousand_cuts_of_fifty_accounts_are_all_paid",
    ),
    row(
        "G-1",
        "kill -9",
        "gateway/test_kill.py::test_kill_while_the_provider_works_gives_the_hold_back"
        " test_kill_in_the_middle_of_a_stream_charges_its_last_checkpoint"
        " test_kill_after_answers_loses_none_of_their_charges test_kill_between_charge_and_answer_charges_once",
        "store/ledger/test_sqlite_crash.py::test_kill_9_at_a_named_point"
        " test_kill_9_loses_nothing_that_was_acknowledged",
        "processes/test_outages.py::test_processes_killed_under_load_lose_no_answer",
    ),
    row(
        "G-2",
        "a node that never returns",
        "processes/test_outages.py::test_what_a_killed_process_held_returns_by_the_others",
        "store/ledger/test_postgres_races.py::test_what_a_node_that_never_returns_had_open_is_ended_once",
    ),
    row(
        "G-3",
        "being told to stop",
        "gateway/test_kill.py::test_stop_lets_a_running_stream_end_and_takes_nothing_new",
        "gateway/test_workers.py::test_told_to_stop_they_finish_what_they_can test_a_rolling_restart_fails_no_request",
    ),
    row("G-4", "memory that grows", "gateway/test_kill.py::test_memory_stays_flat"),
    row(
        "G-5",
        "no file descriptors",
        "edge/test_server.py::test_running_out_of_files_neither_ends_nor_blocks_the_server",
    ),
    row("G-6", "a loop that lags", "edge/test_server.py::test_the_lag_of_a_loop_is_what_its_timers_were_late"),
    row(
        "G-7",
        "clocks",
        SQLITE + "test_a_clock_that_jumps_moves_no_money",
        "store/test_processes.py::test_after_an_outage_of_the_database_nobody_is_taken_for_dead",
    ),
    row(
        "G-8",
        "mistakes of ours",
        INPUT + "test_mistake_of_ours_is_a_500_that_says_nothing_and_costs_nothing",
        SQLITE + "test_a_mistake_in_the_rules_fails_the_operation_and_nothing_else"
        " test_an_impossible_balance_stops_everything",
    ),
    row("G-9", "two sweepers", "store/test_processes.py::test_two_that_sweep_at_once_have_one_effect"),
    row(
        "G-10",
        "an old and a new version together",
        "store/ledger/test_postgres.py::test_a_newer_version_may_add_a_column_beside_it",
        "store/test_schema.py::test_every_insert_names_its_columns",
    ),
    row(
        "H1",
        "no database at admission",
        "store/test_db.py::test_a_server_that_hangs_or_is_gone_is_unavailable_in_time_and_found_again",
        "processes/test_outages.py::test_a_database_that_dies_under_load_loses_no_answer",
    ),
    row(
        "H2",
        "the database dies in the middle",
        OUTAGES + "test_a_database_killed_under_load_loses_no_end_and_doubles_none"
        " test_ends_outlive_both_the_database_and_the_process",
        "store/ledger/test_spool.py::test_what_was_told_to_be_safe_survives_a_kill",
    ),
    row(
        "H3",
        "the database hangs",
        OUTAGES + "test_a_database_that_hangs_refuses_in_time_and_keeps_the_ends",
        "processes/test_outages.py::test_a_database_that_hangs_refuses_in_time",
    ),
    row(
        "H4",
        "a commit that nobody answered",
        OUTAGES + "test_a_commit_that_nobody_answered_is_neither_lost_nor_done_twice",
        SQLITE + "test_a_commit_of_which_nobody_knows_stops_everything",
        "processes/test_outages.py::test_connections_cut_off_at_any_moment_charge_nothing_twice",
    ),
    row(
        "H5",
        "others in the way",
        "store/test_db.py::test_writers_at_once_lose_nothing test_those_in_each_others_way_try_again",
        SQLITE + "test_the_command_line_works_beside_the_server",
    ),
    row("H6", "a full disk", SQLITE + "test_a_full_disk_refuses_holds_keeps_ends_and_recovers"),
    row(
        "H7",
        "a disk that fails to sync",
        SQLITE + "test_a_disk_that_fails_to_sync_ends_the_server_and_loses_nothing",
        "store/ledger/test_spool.py::test_nothing_counts_as_safe_after_an_fsync_that_failed",
    ),
    row(
        "H8",
        "a damaged file",
        "store/ledger/test_sqlite_crash.py::test_a_flipped_bit_is_found_or_changes_no_money"
        " test_a_database_that_has_lost_its_log_is_not_served_from",
    ),
    row("H9", "a backup while writing", "services/test_restore.py::test_backups_are_whole_while_a_gateway_writes"),
    row(
        "H10",
        "a migration that is cut off",
        "store/test_schema.py::test_a_killed_migration_of_sqlite_has_not_happened_and_happens_next_time"
        " test_a_killed_migration_of_postgresql_has_not_happened_and_happens_next_time",
    ),
    row(
        "H11",
        "counters lost",
        "processes/test_outages.py::test_counters_that_are_forgotten_allow_one_more_burst_and_no_more_money",
    ),
    row(
        "H12",
        "patterns in a search",
        "store/test_search.py::test_wildcards_find_themselves test_no_pattern_makes_a_search_long",
        "web/test_search.py::test_no_pattern_takes_long",
    ),
    row(
        "I1",
        "no secret for webhooks",
        "payments/test_methods.py::test_half_a_configuration_stops_the_start test_without_stripe_there_is_no_webhook",
        "payments/test_gateway.py::test_without_a_secret_there_is_no_route",
    ),
    row(
        "I2",
        "forged events",
        "payments/test_webhook.py::test_a_forgery_is_refused test_there_are_forty_classes_of_forgery"
        " test_no_forgery_reaches_the_books",
    ),
    row(
        "I3",
        "another method's order",
        "payments/test_checkout.py::test_a_payment_by_another_method_is_not_completed_through_stripe",
        "payments/test_trials.py::test_no_session_completes_an_order_that_is_not_its_own",
    ),
    row(
        "I4",
        "not what was ordered",
        "payments/test_checkout.py::test_what_was_not_ordered_is_for_people_to_look_at"
        " test_a_session_that_is_not_paid_is_not_credited",
        "payments/test_trials.py::test_only_what_stripe_says_when_asked_is_credited_and_only_if_it_was_ordered",
    ),
    row(
        "I5",
        "one event many times",
        "payments/test_schedules.py::test_whatever_the_schedule_it_is_one_credit"
        " test_a_thousand_schedules_are_a_thousand_single_credits",
    ),
    row("I6", "many events for one payment", "payments/test_checkout.py::test_every_event_twice_is_one_credit"),
    row(
        "I7",
        "the wrong order",
        "payments/test_refunds.py::test_a_refund_heard_of_before_its_payment_is_settled_with_it",
        "payments/test_schedules.py::test_whatever_the_schedule_it_is_one_credit",
    ),
    row(
        "I8",
        "a crash at a webhook",
        "payments/test_kill.py::test_a_killed_gateway_leaves_one_credit",
        "payments/test_checkout.py::test_what_stripe_could_not_be_asked_for_waits_in_the_inbox",
    ),
    row(
        "I9",
        "a webhook that never comes",
        "payments/test_checkout.py::test_a_webhook_that_never_came_is_made_up_for"
        " test_events_that_were_missed_are_found",
    ),
    row(
        "I10",
        "money that goes back after it was spent",
        "payments/test_refunds.py::test_only_what_goes_back_takes_a_balance_below_zero_and_then_calls_are_refused"
        " test_a_dispute_freezes_the_account_and_takes_the_credit",
        "payments/test_trials.py::test_only_what_goes_back_takes_a_balance_below_zero",
        "payments/test_gateway.py::test_after_a_refund_calls_want_money_and_after_a_dispute_they_are_refused",
    ),
    row(
        "I11",
        "the processor in trouble",
        "payments/test_checkout.py::test_stripe_in_trouble_at_checkout_is_a_503_and_one_session"
        " test_an_order_asked_for_twice_is_one_session",
        "payments/test_trials.py::test_whatever_stripe_does_at_checkout_it_is_a_503_or_one_session",
    ),
    row("I12", "a flood of webhooks", "payments/test_webhook.py::test_a_flood_costs_little"),
    row("I13", "a secret replaced", "payments/test_webhook.py::test_while_a_secret_is_replaced_both_are_accepted"),
    row(
        "J1",
        "anything, anywhere",
        INPUT + "test_every_route_gives_only_documented_answers_to_anything"
        " test_every_route_gives_only_documented_answers_to_a_hundred_thousand_requests",
    ),
    row(
        "J2",
        "JSON that readers disagree about",
        INPUT + "test_odd_json_is_refused_by_the_name_of_what_is_wrong"
        " test_member_that_stands_twice_means_the_same_to_everybody",
    ),
    row(
        "J3",
        "fields that choose the provider",
        INPUT + "test_callers_cannot_choose_host_credential_price_or_answer test_headers_of_the_caller_stay_here",
    ),
    row(
        "J4",
        "addresses that lead inside",
        "upstream/test_fetch.py::test_nothing_inside_is_connected_to_however_it_is_written"
        " test_name_that_leads_elsewhere_when_asked_again_is_not_asked_again"
        " test_redirect_that_leads_inside_is_not_followed",
    ),
    row(
        "J5",
        "providers without TLS",
        "config/test_reading.py::test_a_mistake_names_its_line_and_what_would_be_right test_plain_http_can_be_accepted",
    ),
    row(
        "J6",
        "line ends in headers",
        INPUT + "test_control_characters_get_nowhere test_control_characters_in_headers_are_refused",
        "edge/test_downstream.py::test_a_header_cannot_smuggle_another",
        "web/test_headers.py::test_no_text_of_a_visitor_becomes_a_header",
    ),
    row(
        "J7",
        "scripts in names",
        "web/test_stored_scripts.py::test_what_is_stored_is_shown_as_text_everywhere",
        "web/test_markdown.py::test_what_is_no_markdown_is_shown_as_text",
    ),
    row("J8", "commands, templates, eval", RULES, "test_source_rules.py::test_what_runs_other_code_is_found"),
    row("J9", "an operator's writes", "web/test_audit.py::test_every_write_of_an_operator_is_noted"),
    row("J10", "secrets at rest", KEYS + "test_nothing_in_the_database_gives_a_key_away"),
    row(
        "J11",
        "a dangerous configuration",
        "config/test_reading.py::test_a_mistake_names_its_line_and_what_would_be_right",
        "cli/test_serve.py::test_a_mistake_in_the_configuration_is_said_with_its_line",
        "payments/test_methods.py::test_half_a_configuration_stops_the_start",
    ),
    row(
        "J12",
        "a malicious dependency",
        "test_dependencies.py::test_a_lock_pins_every_package_by_hash_and_names_no_place"
        " test_no_installed_package_runs_code_at_every_start test_the_wheel_holds_the_sources_and_nothing_else",
    ),
    row("J13", "versions with known holes", "test_dependencies.py::test_no_version_with_a_known_hole_is_locked"),
    row("J14", "secrets that were committed", "test_secrets_not_committed.py::test_nothing_committed_holds_a_secret"),
    row(
        "J15",
        "prompts in logs",
        "gateway/test_secrets_do_not_leak.py::test_prompts_answers_and_keys_are_nowhere_but_where_they_belong",
    ),
    row(
        "J16",
        "secrets in logs and errors",
        "gateway/test_secrets_do_not_leak.py::test_what_a_provider_says_in_its_troubles_stays_here",
        "cli/test_canary.py::test_no_command_prints_a_secret_of_the_configuration",
        "cli/test_serve.py::test_a_running_gateway_prints_no_secret",
    ),
    row(
        "J17",
        "lines forged in logs",
        "test_telemetry.py::test_what_is_logged_is_one_line_of_json_whatever_stands_in_it",
        "cli/test_serve.py::test_all_that_is_logged_is_json",
    ),
    row(
        "J18",
        "taking data along, being forgotten",
        "web/test_leaving.py::test_who_leaves_takes_their_data_along_and_is_forgotten_but_for_the_books",
    ),
    row("J19", "a cache that tells", "gateway/test_replays.py::test_a_key_stands_for_one_request_of_one_account"),
    row(
        "J20",
        "figures for everybody",
        "test_metrics.py::test_only_this_machine_may_ask_and_for_nobody_else"
        " test_behind_a_public_address_nobody_may_ask_without_a_token",
    ),
)

# How many there are of each kind.
KINDS = {"A": 20, "B": 20, "C": 9, "D": 12, "E": 22, "F": 12, "G-": 10, "H": 12, "I": 13, "J": 20}


def named(fault: Fault) -> list[str]:
    """Each test by its whole name."""
    tests = []
    for each in fault.tests:
        file, names = each.split("::")
        tests += [f"tests/{file}::{name}" for name in names.split()]
    return tests


def test_the_list_is_whole() -> None:
    assert [fault.id for fault in FAULTS] == [
        f"{kind}{number}" for kind, count in KINDS.items() for number in range(1, count + 1)
    ]
    assert all(re.fullmatch(r"[\w/]+\.py::test_\w+( test_\w+)*", each) for fault in FAULTS for each in fault.tests)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_has_its_test(fault: Fault) -> None:
    assert named(fault), f"name the test that would find “{fault.what}”"
    assert [test for test in named(fault) if not exists(test)] == []
