"""What went wrong in other gateways, one regression test each.

`KNOWN_BAD` lists public advisories and issues. A row names the tests that would fail if the same mistake were made
here (`tests/<file>.py::<test>`).
"""

import ast
from functools import cache
from typing import NamedTuple

import pytest
from tests.syntax import ROOT


class Row(NamedTuple):
    number: int
    source: str
    mistake: str
    tests: tuple[str, ...]


RULES = "tests/test_source_rules.py::test_the_sources_keep_the_rule"
FENCES = "tests/test_imports.py::test_foreign_packages_stay_behind_their_fences"

KNOWN_BAD = (
    Row(
        1,
        "CVE-2026-42208",
        "SQL in the Authorization header reached the database",
        (RULES, "tests/services/test_keys.py::test_sql_in_an_id_or_address_is_text"),
    ),
    Row(2, "CVE-2026-42271", "any key could have commands run through a test endpoint", (RULES,)),
    Row(
        3,
        "CVE-2026-49468",
        "the path that access was decided by came from the Host header",
        ("tests/web/test_access.py::test_a_host_that_is_not_ours_is_refused_on_every_page",),
    ),
    Row(
        4,
        "CVE-2026-35030",
        "a truncated cache key gave one user another's session",
        (
            "tests/services/test_keys.py::test_keys_that_share_their_beginning_are_strangers",
            "tests/services/test_keys.py::test_ten_thousand_digests_of_similar_keys_differ",
        ),
    ),
    Row(
        5,
        "CVE-2026-47101",
        "a user made a key with more rights than their own",
        ("tests/web/test_access.py::test_every_page_lets_in_whom_it_should_and_nobody_else",),
    ),
    Row(
        6,
        "CVE-2026-47102",
        "a user could write their own role",
        (
            "tests/web/test_access.py::test_every_page_lets_in_whom_it_should_and_nobody_else",
            "tests/web/test_members.py::test_who_is_invited_joins_with_their_role_and_can_be_removed",
        ),
    ),
    Row(7, "CVE-2026-40217", "code that an administrator pasted left its sandbox", (RULES,)),
    Row(
        8,
        "CVE-2024-6587",
        "a client's api_base sent the provider's key elsewhere",
        ("tests/gateway/test_input_faults.py::test_callers_cannot_choose_host_credential_price_or_answer",),
    ),
    Row(
        9,
        "GHSA-qqcv-vg9f-5rr3",
        "team management without access control",
        (
            "tests/web/test_access.py::test_every_page_lets_in_whom_it_should_and_nobody_else",
            "tests/web/test_members.py::test_an_account_keeps_an_owner",
        ),
    ),
    Row(
        10,
        "litellm#28864",
        "spending of every tenant shown to any key",
        (
            "tests/web/test_access.py::test_nobody_reaches_what_is_somebody_elses",
            "tests/gateway/test_lookups.py::test_nobody_sees_the_request_of_another_account",
        ),
    ),
    Row(
        11,
        "LiteLLM 1.82.7",
        "a stolen release with a .pth file",
        (
            "tests/test_dependencies.py::test_no_installed_package_runs_code_at_every_start",
            "tests/test_dependencies.py::test_a_lock_pins_every_package_by_hash_and_names_no_place",
            "tests/test_dependencies.py::test_the_wheel_holds_the_sources_and_nothing_else",
        ),
    ),
    Row(
        12,
        "litellm#34732",
        "budget checked, then added: a race",
        (
            "tests/store/ledger/test_contract.py::test_fifty_at_once_with_money_for_ten",
            "tests/store/ledger/test_postgres_races.py::test_fifty_at_once_with_money_for_ten",
        ),
    ),
    Row(
        13,
        "litellm#40095",
        "the first requests of an unknown user had no limits",
        ("tests/gateway/test_races.py::test_first_requests_of_a_new_account_are_limited_like_all_others",),
    ),
    Row(
        14,
        "litellm#26672",
        "the budget was only looked at afterwards",
        (
            "tests/store/ledger/test_contract.py::test_fifty_at_once_with_money_for_ten",
            "tests/store/ledger/test_contract.py::test_a_limited_key_spends_no_more_than_its_limit",
        ),
    ),
    Row(15, "litellm#28247", "a lost counter was set anew by every node", (FENCES,)),
    Row(16, "litellm#30460", "counters grew on time-outs", (FENCES,)),
    Row(
        17,
        "litellm#33872",
        "taken from the queue, then the commit failed: spending lost",
        (
            "tests/store/ledger/test_postgres_outages.py::test_a_database_killed_under_load_loses_no_end_and_doubles_none",
        ),
    ),
    Row(
        18,
        "litellm#30039",
        "an error in reconciling skipped the charge",
        (
            "tests/store/ledger/test_postgres_outages.py::test_ends_outlive_both_the_database_and_the_process",
            "tests/store/ledger/test_contract.py::test_one_bad_operation_fails_nobody_else",
        ),
    ),
    Row(
        19,
        "litellm#34238",
        "each process fell back to its own stale figure",
        (
            "tests/store/ledger/test_postgres_races.py::test_fifty_at_once_with_money_for_ten",
            "tests/store/ledger/test_postgres_races.py::test_a_fenced_process_gets_no_more_and_its_true_ends_are_charged_once",
        ),
    ),
    Row(
        20,
        "litellm#27639",
        "reservations leaked, and requests were refused for nothing",
        (
            "tests/store/ledger/test_contract.py::test_whoever_no_longer_waits_holds_nothing",
            "tests/store/ledger/test_contract.py::test_a_process_that_died_has_its_holds_ended_before_the_next_one_serves",
            "tests/store/ledger/test_postgres_races.py::test_what_a_node_that_never_returns_had_open_is_ended_once",
        ),
    ),
    Row(
        21,
        "litellm#14457",
        "a client that left was billed nothing, or too little",
        (
            "tests/core/test_pricing.py::test_client_who_left_pays_what_the_provider_reports",
            "tests/core/test_pricing.py::test_client_who_left_without_usage_pays_what_was_produced",
        ),
    ),
    Row(
        22,
        "litellm#13245",
        "the same without a stream",
        ("tests/gateway/test_charges.py::test_caller_who_left_a_whole_answer_is_charged_as_used",),
    ),
    Row(
        23,
        "litellm#37992",
        "a usage of zero was replaced by an estimate",
        ("tests/core/test_pricing.py::test_usage_that_is_explicitly_zero_charges_nothing",),
    ),
    Row(
        24,
        "litellm#41379",
        "fell over from a free model to a paid one without looking at the budget",
        ("tests/gateway/test_upstream_faults.py::test_dearer_route_is_called_only_after_the_hold_covers_it",),
    ),
    Row(
        25,
        "litellm#25015",
        "reading a stored result was billed again",
        ("tests/gateway/test_races.py::test_reading_costs_nothing",),
    ),
    Row(
        26,
        "litellm#40002",
        "reserved at the base price where a dearer tier applied",
        (
            "tests/core/test_pricing.py::test_affordable_output_never_costs_more_than_the_amount",
            "tests/core/test_pricing.py::test_bound_of_an_explicit_limit_covers_all_choices",
            "tests/core/test_pricing.py::test_no_request_within_its_demand_costs_more_than_its_bound",
            "tests/gateway/test_prices.py::test_a_request_is_held_at_the_tier_that_it_can_reach",
        ),
    ),
    Row(
        27,
        "litellm#10973",
        "a model that costs nothing was refused for want of budget",
        ("tests/gateway/test_free_models.py::test_model_that_costs_nothing_answers_an_empty_account",),
    ),
    Row(
        28,
        "litellm#40291",
        "each replica counted tokens per minute for itself",
        ("tests/limits/test_redis.py::test_a_limit_is_one_limit_on_four_processes",),
    ),
    Row(
        29,
        "litellm#35273",
        "a hung Redis hung every request",
        ("tests/limits/test_redis.py::test_each_node_limits_its_share_while_the_server_is_away",),
    ),
    Row(
        30,
        "litellm#20288",
        "keys in the text of errors",
        (
            "tests/upstream/test_pool_connecting.py::test_an_error_carries_no_credential",
            "tests/cli/test_canary.py::test_no_command_prints_a_secret_of_the_configuration",
            "tests/cli/test_serve.py::test_a_running_gateway_prints_no_secret",
        ),
    ),
    Row(
        31,
        "CVE-2026-41432",
        "an empty webhook secret verified everything",
        (
            "tests/payments/test_webhook.py::test_without_a_secret_nothing_is_genuine",
            "tests/payments/test_methods.py::test_half_a_configuration_stops_the_start",
        ),
    ),
    Row(
        32,
        "new-api#4353",
        "an order of one payment method completed through another",
        (
            "tests/payments/test_checkout.py::test_a_payment_by_another_method_is_not_completed_through_stripe",
            "tests/payments/test_trials.py::test_no_session_completes_an_order_that_is_not_its_own",
        ),
    ),
    Row(
        33,
        "CVE-2026-30886",
        "another user's task by its id",
        (
            "tests/gateway/test_lookups.py::test_nobody_sees_the_request_of_another_account",
            "tests/web/test_access.py::test_nobody_reaches_what_is_somebody_elses",
        ),
    ),
    Row(
        34,
        "CVE-2026-25591",
        "wildcards in a search kept the database busy",
        (
            "tests/store/test_search.py::test_wildcards_find_themselves",
            "tests/web/test_search.py::test_no_pattern_takes_long",
        ),
    ),
    Row(
        35,
        "new-api#6609",
        "quota checked, then taken: a race",
        (
            "tests/store/ledger/test_contract.py::test_fifty_at_once_with_money_for_ten",
            "tests/store/ledger/test_postgres_races.py::test_fifty_at_once_with_money_for_ten",
        ),
    ),
    Row(
        36,
        "new-api#4302",
        "one voucher redeemed twice at once",
        ("tests/payments/test_vouchers.py::test_of_many_at_once_one_gets_it",),
    ),
    Row(
        37,
        "new-api#5556",
        "refunded twice: state and amount in two transactions",
        (
            "tests/payments/test_schedules.py::test_whatever_the_schedule_it_is_one_credit",
            "tests/payments/test_refunds.py::test_a_refund_that_stripe_did_not_answer_happens_once",
            "tests/payments/test_refund_kill.py::test_a_refund_that_was_cut_off_happened_once_or_not_at_all",
        ),
    ),
    Row(
        38,
        "new-api#4211",
        "a refund raised the total, which was a second counter",
        (
            "tests/services/test_statements.py::test_opening_and_movements_make_the_closing_and_the_lines_agree",
            "tests/payments/test_verify_payments.py::test_each_tampering_is_named",
        ),
    ),
    Row(
        39,
        "new-api#7062",
        "client gone, so charged nothing although it was delivered",
        ("tests/core/test_pricing.py::test_client_who_left_in_the_middle_pays_however_silent_the_provider_was",),
    ),
    Row(
        40,
        "new-api#4168",
        "no output, and the prompt was charged whoever's fault it was",
        (
            "tests/core/test_pricing.py::test_client_who_left_a_silent_provider_pays_nothing",
            "tests/core/test_pricing.py::test_failure_before_any_output_is_free",
        ),
    ),
    Row(
        41,
        "new-api#5288",
        "the text of an error was billed as output",
        (
            "tests/gateway/test_charges.py::test_error_of_the_provider_in_the_middle_is_never_counted_as_output",
            "tests/wire/test_openai_stream.py::test_error_text_is_never_output",
        ),
    ),
    Row(
        42,
        "new-api#4344",
        "a client that left without a stream",
        ("tests/gateway/test_charges.py::test_caller_who_left_a_whole_answer_is_charged_as_used",),
    ),
    Row(
        43,
        "new-api#7486",
        "billed at the end of a broken stream, and again for the retry",
        (
            "tests/gateway/test_upstream_faults.py::test_stream_that_is_reset_anywhere_ends_in_an_error_and_is_free",
            "tests/gateway/test_charges.py::test_stream_is_charged_once_however_often_usage_is_reported",
        ),
    ),
    Row(
        44,
        "one-api#2440",
        "no reservation for those who are rich",
        ("tests/store/ledger/test_contract.py::test_the_rich_hold_like_everybody",),
    ),
    Row(
        45,
        "one-api#2397",
        "FOR UPDATE silently left out on one of the databases",
        (
            "tests/services/test_credit.py::test_grants_and_calls_at_once_lose_nothing",
            "tests/store/ledger/test_contract.py::test_fifty_at_once_with_money_for_ten",
        ),
    ),
    Row(
        46,
        "CVE-2026-45339",
        "a second header with a key skipped the restrictions",
        ("tests/gateway/test_input_faults.py::test_two_different_keys_are_refused_and_the_same_one_twice_is_fine",),
    ),
    Row(
        47,
        "CVE-2026-45349",
        "another user's chat by its id",
        (
            "tests/gateway/test_lookups.py::test_nobody_sees_the_request_of_another_account",
            "tests/web/test_access.py::test_nobody_reaches_what_is_somebody_elses",
        ),
    ),
    Row(
        48,
        "CVE-2026-45400",
        "two parsers read one URL differently",
        (
            "tests/gateway/test_request.py::test_provider_gets_the_body_as_it_came_but_for_its_own_model_name_and_credential",
            "tests/upstream/test_fetch.py::test_nothing_inside_is_connected_to_however_it_is_written",
        ),
    ),
    Row(
        49,
        "CVE-2026-45401",
        "a redirect after the address had been checked",
        (
            "tests/gateway/test_upstream_faults.py::test_redirect_is_not_followed",
            "tests/upstream/test_fetch.py::test_redirect_that_leads_inside_is_not_followed",
        ),
    ),
    Row(
        50,
        "CVE-2026-27812",
        "the link to reset a password pointed where the Host header said",
        ("tests/web/test_reset.py::test_no_header_changes_where_links_lead",),
    ),
    Row(
        51,
        "CVE-2026-48746",
        "access decided by a path taken from the request's URL",
        ("tests/edge/test_downstream.py::test_targets_are_split_and_decoded",),
    ),
    Row(
        52,
        "CVE-2025-62727",
        "a Range header that took quadratic time",
        ("tests/web/test_app.py::test_parts_of_a_file_are_not_served",),
    ),
    Row(
        53,
        "otari#128",
        "a stream that failed before its first chunk kept its hold",
        (
            "tests/gateway/test_upstream_faults.py::test_provider_that_hangs_up_is_unavailable_and_free",
            "tests/gateway/test_upstream_faults.py::test_error_event_before_any_output_moves_on_to_the_next_route",
        ),
    ),
    Row(
        54,
        "litellm-rs#720",
        "our own refusals counted as the provider's failures",
        ("tests/gateway/test_upstream_faults.py::test_refusals_that_are_no_failure_of_a_provider_never_shut_it",),
    ),
    Row(
        55,
        "fail-open limiters",
        "no limits while the shared counters were away",
        (
            "tests/limits/test_redis.py::test_each_node_limits_its_share_while_the_server_is_away",
            "tests/limits/test_redis.py::test_a_server_that_was_never_there_does_not_keep_a_process_from_starting",
        ),
    ),
    Row(
        56,
        "uvicorn#157",
        "no deadline for a client that sends its request slowly",
        (
            "tests/edge/test_connection_deadlines.py::test_a_head_that_is_not_whole_in_time_is_a_408",
            "tests/edge/test_connection_deadlines.py::test_dripping_gains_no_time_for_a_head",
            "tests/edge/test_connection_deadlines.py::test_a_late_second_head_waits_for_the_first_answer",
            "tests/edge/test_connection_deadlines.py::test_slow_clients_do_not_slow_the_others_and_are_all_closed",
        ),
    ),
    Row(
        57,
        "laravel/ai#864",
        "an account at its spending cap was told to callers as their mistake, and no other provider was asked",
        (
            "tests/wire/test_errors.py::test_an_empty_account_is_402_whatever_they_call_it",
            "tests/gateway/test_upstream_faults.py::test_what_is_the_operators_to_mend_is_not_told_to_callers_as_their_mistake",
        ),
    ),
    Row(
        58,
        "new-api#443",
        "a reseller without credit was not left alone",
        ("tests/wire/test_errors.py::test_an_empty_account_is_402_whatever_they_call_it",),
    ),
    Row(
        59,
        "one-api#90",
        "a model that a provider no longer has was the caller's mistake",
        ("tests/wire/test_errors.py::test_a_model_that_the_provider_does_not_serve_is_404_whatever_they_call_it",),
    ),
    Row(
        60,
        "litellm#6957",
        "a stream that failed after its first event without text was not tried elsewhere",
        (
            "tests/gateway/test_upstream_faults.py::test_a_stream_that_fails_after_its_opening_moves_on_to_the_next_route",
            "tests/gateway/test_anthropic.py::test_an_overload_before_the_first_text_moves_on_to_the_next_route",
        ),
    ),
    Row(
        61,
        "litellm#23198",
        "Claude Code was refused for the max_tokens that it asks of every model",
        (
            "tests/gateway/test_dialects.py::test_nobody_is_refused_for_asking_for_more_than_a_model_of_another_dialect_writes",
        ),
    ),
    Row(
        62,
        "litellm#27180",
        "Claude Code could not read the list of models",
        (
            "tests/edge/test_listings.py::test_anthropics_clients_get_the_models_that_they_can_call",
            "tests/sdk/test_anthropic_python.py::test_models_are_listed_as_anthropic_lists_them",
        ),
    ),
)


@cache
def names_in(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text()))
    return frozenset(
        node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )


def exists(test: str) -> bool:
    file, *names = test.split("::")
    return bool(names) and set(names) <= names_in(file)


def test_the_list_is_whole() -> None:
    assert [row.number for row in KNOWN_BAD] == list(range(1, 63))


@pytest.mark.parametrize("row", KNOWN_BAD, ids=lambda row: f"{row.number}-{row.source}")
def test_a_known_mistake_has_its_test(row: Row) -> None:
    assert row.tests, f"name the test that would find “{row.mistake}”"
    assert [test for test in row.tests if not exists(test)] == []


def test_a_test_that_does_not_exist_is_found() -> None:
    assert exists("tests/test_known_bad.py::test_the_list_is_whole")
    assert not exists("tests/test_known_bad.py::test_nothing_of_the_kind")
    assert not exists("tests/no_such_file.py::test_the_list_is_whole")
