#!/usr/bin/env python3
"""Writes the Grafana dashboards: python dashboards/build.py, or with --check to see whether the committed ones are these.

One function per panel kind, one list per dashboard. What stands here is what a person would click together: titles, expressions, units.
"""

import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent / "grafana"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SIDES = 'side=~"legacy|serverless"'


def panel(kind, title, text, unit, *targets, width=12, height=8, options=None, overrides=(), **defaults):
    made = []
    for number, target in enumerate(targets):
        expression, legend = target if isinstance(target, tuple) else (target, "__auto")
        made.append({"refId": chr(65 + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend, **({"format": "table", "instant": True} if kind == "table" else {"instant": True} if kind == "stat" else {})})
    return {
        "type": kind, "title": title, "description": text, "datasource": SOURCE, "targets": made, "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": list(overrides)}, "options": options or {},
    }


def lines(title, text, unit, *targets, **more):
    return panel("timeseries", title, text, unit, *targets, options={"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}, **more)


def number(title, text, unit, target, width=4, **more):
    return panel("stat", title, text, unit, target, width=width, height=4, options={"reduceOptions": {"calcs": ["lastNotNull"]}}, **more)


def yes_no(title, text, target, bad, width=4):
    """0 and 1 in words and colours; `bad` is the one to look at."""
    steps = [{"color": "green" if bad else "red", "value": None}, {"color": "red" if bad else "green", "value": 1}]
    mappings = [{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]
    return number(title, text, "none", target, width=width, thresholds={"mode": "absolute", "steps": steps}, mappings=mappings)


def board(title, text, unit_of, *targets, joined="route", height=12):
    """A table with a row for each of `joined`; columns are (name, expression, unit)."""
    overrides = [{"matcher": {"id": "byName", "options": f"Value #{chr(65 + n)}"}, "properties": [{"id": "displayName", "value": name}, {"id": "unit", "value": unit}]} for n, (name, _, unit) in enumerate(targets)]
    made = panel("table", title, text, unit_of, *[expression for _, expression, _ in targets], width=24, height=height, overrides=overrides)
    hidden = {name: True for name in ("Time", "__name__", "instance", "job", "kind", "verdict", "side")}
    made["transformations"] = [{"id": "joinByField", "options": {"byField": joined, "mode": "outer"}}, {"id": "organize", "options": {"excludeByName": hidden}}]
    return made


def variable(name, label, query):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query, "refresh": 2, "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}, "sort": 1}


def dashboard(uid, title, text, panels, variables=()):
    x = y = tallest = 0
    for number_, it in enumerate(panels, 1):
        place = it["gridPos"]
        if x + place["w"] > 24:
            x, y, tallest = 0, y + tallest, 0
        place.update(x=x, y=y)
        x, tallest, it["id"] = x + place["w"], max(tallest, place["h"]), number_
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    return {
        "uid": f"banyan-{uid}", "title": f"Banyan / {title}", "description": text, "tags": ["banyan"], "schemaVersion": 39, "version": 1, "editable": True, "graphTooltip": 1, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "templating": {"list": [source, *variables]}, "panels": panels, "annotations": {"list": []},
        "links": [{"title": "Banyan", "type": "dashboards", "tags": ["banyan"], "asDropdown": True, "keepTime": True, "includeVars": True}],
    }


ROUTE = variable("route", "Route", "label_values(banyan_route_stage, route)")
RATE = f'sum by (route, side) (rate(banyan_requests_total{{route=~"$route", {SIDES}}}[$__rate_interval]))'
ERRORS = f'(sum by (route, side) (rate(banyan_requests_total{{route=~"$route", code=~"5..", {SIDES}}}[$__rate_interval])) or 0 * {RATE}) / {RATE}'


def quantile(q, by="route, side", where=f'route=~"$route", {SIDES}'):
    return f"histogram_quantile({q}, sum by (le, {by}) (rate(banyan_request_duration_seconds_bucket{{{where}}}[$__rate_interval])))"


def side(expression, name):
    return expression.replace(SIDES, f'side="{name}"').replace("sum by (route, side)", "sum by (route)").replace("le, route, side", "le, route")


DASHBOARDS = {
    "overview": dashboard("overview", "Fleet", "All proxies at a glance: who answers, how well, and whether anything is switched off.", [
        number("Requests", "Requests a second, all routes.", "reqps", "sum(rate(banyan_requests_total[$__rate_interval]))"),
        number("Failed", "Part of the requests answered 5xx.", "percentunit", '(sum(rate(banyan_requests_total{code=~"5.."}[$__rate_interval])) or vector(0)) / sum(rate(banyan_requests_total[$__rate_interval]))'),
        number("Serverless", "Part of the requests that serverless answered.", "percentunit", '(sum(rate(banyan_requests_total{side="serverless"}[$__rate_interval])) or vector(0)) / sum(rate(banyan_requests_total{side=~"legacy|serverless"}[$__rate_interval]))'),
        yes_no("Kill switch", "Any kill switch that is on: its routes are on legacy.", "max(banyan_kill_switch)", bad=True),
        yes_no("Rules in force", "Every proxy has taken the rules it was given last.", "min(banyan_config_last_reload_successful)", bad=False),
        number("Revisions", "Different rules in force; more than 1 for long is drift.", "short", "count(count by (revision) (banyan_config_info == 1))"),
        lines("Requests by side", "Who answered: legacy, serverless, or Banyan itself (none).", "reqps", ("sum by (side) (rate(banyan_requests_total[$__rate_interval]))", "{{side}}")),
        lines("Answers by status", "By status class.", "reqps", ('sum by (class) (label_replace(rate(banyan_requests_total[$__rate_interval]), "class", "${1}xx", "code", "(.).."))', "{{class}}")),
        lines("Latency of both sides", "Time to the end of an answer, by side.", "s", (quantile(0.5, "side", SIDES), "{{side}} p50"), (quantile(0.95, "side", SIDES), "{{side}} p95"), (quantile(0.99, "side", SIDES), "{{side}} p99")),
        lines("Refused by Banyan", "Requests that Banyan answered itself, by cause.", "reqps", ("sum by (cause) (rate(banyan_refused_total[$__rate_interval]))", "{{cause}}")),
        lines("Backends", "Part of each backend's addresses that is healthy.", "percentunit", ("min by (backend) (banyan_backend_health)", "{{backend}}"), min=0, max=1),
        lines("Unclaimed", "Requests that no route claims; the monolith's unknown paths.", "reqps", ("sum(rate(banyan_unclaimed_total[$__rate_interval]))", "unclaimed")),
    ]),
    "migration": dashboard("migration", "Migration board", "Every route on its way: stage, share, proof, and both sides next to each other.", [
        board("Routes", "Share of serverless as approved and in force; at most so much of all requests differs (with 95 % confidence, all looks together); part of the route's kinds of requests that was compared; both sides' rate, errors and p95.", "none",
              ("Approved", 'max by (route) (banyan_route_share_ratio{route=~"$route", kind="approved"})', "percentunit"),
              ("In force", 'max by (route) (banyan_route_share_ratio{route=~"$route", kind="actual"})', "percentunit"),
              ("Differs at most", 'max by (route) (banyan_parity_upper_bound_ratio{route=~"$route"})', "percentunit"),
              ("Coverage", 'min by (route) (banyan_coverage_ratio{route=~"$route"})', "percentunit"),
              ("Legacy rate", side(RATE, "legacy"), "reqps"),
              ("Serverless rate", side(RATE, "serverless"), "reqps"),
              ("Legacy errors", side(ERRORS, "legacy"), "percentunit"),
              ("Serverless errors", side(ERRORS, "serverless"), "percentunit"),
              ("Legacy p95", side(quantile(0.95), "legacy"), "s"),
              ("Serverless p95", side(quantile(0.95), "serverless"), "s")),
        lines("Stages", "How many routes are in each stage.", "short", ("sum by (stage) (max by (route, stage) (banyan_route_stage))", "{{stage}}"), width=8, custom={"stacking": {"mode": "normal"}, "fillOpacity": 60}),
        lines("Shares in force", "The part of a route's keys that goes to serverless.", "percentunit", ('max by (route) (banyan_route_share_ratio{route=~"$route", kind="actual"})', "{{route}}"), width=8, min=0, max=1),
        lines("Gates", "What the gates of ramps say: 1 for the verdict that holds.", "short", ('max by (route, gate, verdict) (banyan_gate{route=~"$route"}) > 0', "{{route}} {{gate}}: {{verdict}}"), width=8),
    ], [ROUTE]),
    "route": dashboard("route", "One route", "Both sides of the routes that are chosen, in depth.", [
        lines("Rate", "Requests a second, by side.", "reqps", (RATE, "{{route}} {{side}}")),
        lines("Errors", "Part of the requests answered 5xx, by side.", "percentunit", (ERRORS, "{{route}} {{side}}"), min=0),
        lines("p50", "Half of the answers are quicker.", "s", (quantile(0.5), "{{route}} {{side}}"), width=8),
        lines("p95", "One of twenty is slower.", "s", (quantile(0.95), "{{route}} {{side}}"), width=8),
        lines("p99", "One of a hundred is slower.", "s", (quantile(0.99), "{{route}} {{side}}"), width=8),
        lines("Why this side", "What decided: stage, bucket, override, kill, breaker, ceiling, fallback.", "reqps", ('sum by (route, side, reason) (rate(banyan_requests_total{route=~"$route"}[$__rate_interval]))', "{{route}} {{side}} {{reason}}")),
        lines("Fallbacks and retries", "Tries on serverless that legacy answered, and tries after the first.", "reqps", ('sum by (route) (rate(banyan_fallbacks_total{route=~"$route"}[$__rate_interval]))', "{{route}} fallbacks"), ('sum by (route) (rate(banyan_retries_total{route=~"$route"}[$__rate_interval]))', "{{route}} retries")),
        lines("Comparisons", "What the comparator says of copies.", "reqps", ('sum by (route, verdict) (rate(banyan_comparisons_total{route=~"$route"}[$__rate_interval]))', "{{route}} {{verdict}}")),
        lines("Differs at most", "The bound on the part of requests that differ.", "percentunit", ('max by (route) (banyan_parity_upper_bound_ratio{route=~"$route"})', "{{route}}"), min=0),
    ], [ROUTE]),
    "shadow": dashboard("shadow", "Shadows", "Copies, what became of them, and what was lost on the way.", [
        lines("Copies", "Copies sent, by what became of them.", "reqps", ('sum by (route, result) (rate(banyan_shadow_total{route=~"$route"}[$__rate_interval]))', "{{route}} {{result}}")),
        lines("Lost", "Copies that were not sent or not compared, by cause; primaries are never held up for one.", "reqps", ('sum by (route, cause) (rate(banyan_shadow_dropped_total{route=~"$route"}[$__rate_interval]))', "{{route}} {{cause}}")),
        lines("Verdicts", "Of all comparisons.", "reqps", ('sum by (verdict) (rate(banyan_comparisons_total{route=~"$route"}[$__rate_interval]))', "{{verdict}}")),
        lines("Controls", "Legacy asked twice: what differs there is noise.", "reqps", ('sum by (route, verdict) (rate(banyan_controls_total{route=~"$route"}[$__rate_interval]))', "{{route}} {{verdict}}")),
        lines("Coverage", "Part of the requests that the sample took that was compared.", "percentunit", ('min by (route) (banyan_coverage_ratio{route=~"$route"})', "{{route}}"), min=0, max=1),
        lines("Evidence store", "Writes of evidence that failed; the proxy goes on.", "short", ("sum(increase(banyan_evidence_store_errors_total[$__rate_interval]))", "errors")),
    ], [ROUTE]),
    "encapsulation": dashboard("encapsulation", "Encapsulation", "Connections on-prem: how many, from where, who waits, and who calls.", [
        lines("Connections of backends", "In use, idle and callers that wait, by backend.", "short", ("sum by (backend, state) (banyan_backend_connections)", "{{backend}} {{state}}")),
        lines("Tunnels", "Open connections of egress rules, by the address they come from.", "short", ("sum by (rule, source) (banyan_egress_connections)", "{{rule}} from {{source}}")),
        lines("Longest wait now", "How long the one has waited who waits longest.", "s", ("max by (backend) (banyan_backend_queue_wait_seconds)", "{{backend}}"), ("max by (rule) (banyan_egress_queue_wait_seconds)", "{{rule}}"), min=0),
        lines("Wait, p99", "How long callers waited for a connection.", "s", ("histogram_quantile(0.99, sum by (le, backend) (rate(banyan_backend_queue_seconds_bucket[$__rate_interval])))", "{{backend}}"), ("histogram_quantile(0.99, sum by (le, rule) (rate(banyan_egress_queue_seconds_bucket[$__rate_interval])))", "{{rule}}")),
        lines("Ports", "Ports in use, of 28,232 to each destination.", "short", ("sum by (source, destination) (banyan_source_ports)", "{{source}} to {{destination}}")),
        lines("Callers by endpoint", "New connections with a PROXY header, by VPC endpoint.", "cps", ("sum by (endpoint) (rate(banyan_endpoint_connections_total[$__rate_interval]))", "{{endpoint}}")),
        lines("Bytes", "Through tunnels, by direction.", "Bps", ("sum by (rule, direction) (rate(banyan_egress_bytes_total[$__rate_interval]))", "{{rule}} {{direction}}")),
        lines("Refused", "Connections refused by egress rules and for their PROXY headers.", "cps", ('sum by (cause) (rate(banyan_refused_total{cause=~"egress.*|proxy_protocol.*|backend_queue.*|api_key.*"}[$__rate_interval]))', "{{cause}}")),
    ]),
    "serverless": dashboard("serverless", "Functions", "Calls of functions: time billed, cold starts, memory, cost, failures.", [
        lines("Billed time, p95", "What AWS bills for a call, from its REPORT line.", "s", ('histogram_quantile(0.95, sum by (le, route, function) (rate(banyan_lambda_billed_seconds_bucket{route=~"$route"}[$__rate_interval])))', "{{route}} {{function}}")),
        lines("Cold starts", "Part of the calls that had to start an instance.", "percentunit", ('(sum by (route, function) (rate(banyan_lambda_cold_starts_total{route=~"$route"}[$__rate_interval]))) / sum by (route, function) (rate(banyan_lambda_billed_seconds_count{route=~"$route"}[$__rate_interval]))', "{{route}} {{function}}"), min=0),
        lines("Cost of a million requests", "In the currency of the price list, by the prices in the settings.", "short", ('max by (route, function) (banyan_lambda_cost_per_million_requests{route=~"$route"})', "{{route}} {{function}}")),
        lines("Memory", "Most memory a call has used, and what the function has.", "bytes", ("max by (function) (banyan_lambda_memory_used_bytes)", "{{function}} used"), ("max by (function) (banyan_lambda_memory_configured_bytes)", "{{function}} has")),
        lines("Failures", "Calls that failed, by what AWS called it.", "reqps", ("sum by (backend, code) (rate(banyan_lambda_errors_total[$__rate_interval]))", "{{backend}} {{code}}")),
        lines("Warming", "Calls that keep instances ready.", "reqps", ("sum by (backend, result) (rate(banyan_lambda_warm_calls_total[$__rate_interval]))", "{{backend}} {{result}}")),
    ], [ROUTE]),
    "process": dashboard("process", "Process", "The proxies themselves: memory, reloads, state, log.", [
        lines("Memory", "Resident, by proxy.", "bytes", ("max by (instance) (banyan_resident_memory_bytes)", "{{instance}}")),
        lines("Requests under way", "At this moment, by proxy.", "short", ("sum by (instance) (banyan_requests_in_flight)", "{{instance}}")),
        lines("Bodies held whole", "Memory of bodies that functions, signatures and fallbacks need whole.", "bytes", ("sum by (instance) (banyan_buffered_bytes)", "{{instance}}")),
        lines("Reloads", "Sets of rules taken and refused.", "short", ("sum by (result) (increase(banyan_config_reload_duration_seconds_count[$__rate_interval]))", "{{result}}")),
        lines("State", "1 where it can be kept, and where the controller is.", "short", ("min by (instance) (banyan_store_up)", "{{instance}} store"), ("max by (instance) (banyan_controller)", "{{instance}} controller")),
        lines("Not kept yet", "Ways back that are in force and wait for the store.", "short", ("sum by (instance) (banyan_state_unsent)", "{{instance}}")),
        lines("Access log", "Lines lost because nobody took them quickly enough.", "short", ("sum by (instance) (increase(banyan_access_log_dropped_total[$__rate_interval]))", "{{instance}}")),
        lines("Spans", "What became of spans for the collector, a second.", "ops", ("sum by (result) (rate(banyan_spans_total[$__rate_interval]))", "{{result}}")),
        lines("Taps", "Streams of live decisions that are open, and what their readers were too slow for.", "short", ("sum by (instance) (banyan_taps)", "{{instance}} open"), ("sum by (instance) (increase(banyan_tap_dropped_total[$__rate_interval]))", "{{instance}} dropped")),
        lines("Breakers", "0 closed, 1 open, 2 half-open.", "short", ("max by (backend) (banyan_breaker_state)", "{{backend}}")),
        lines("Certificates", "Time until a listener's certificate ends.", "s", ("min by (listener) (banyan_certificate_expiry_timestamp_seconds) - time()", "{{listener}}")),
        number("Versions", "Different builds that run.", "short", "count(count by (version) (banyan_build_info))"),
    ]),
}


def main():
    stale = []
    FOLDER.mkdir(exist_ok=True)
    for name, content in DASHBOARDS.items():
        path, text = FOLDER / f"{name}.json", json.dumps(content, indent=1, sort_keys=True) + "\n"
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if "--check" in sys.argv and stale:
        raise SystemExit(f"stale: {', '.join(stale)}; run dashboards/build.py")


if __name__ == "__main__":
    main()
