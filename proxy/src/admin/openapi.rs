//! The description of the API, served at /api/v1/openapi.json.
//!
//! Input: nothing. Output: an OpenAPI 3.1 document. Must not: describe what is not there; an end-to-end test calls every path
//! it names.

use serde_json::{Value, json};

pub fn document() -> Value {
    let ok = |description: &str| json!({ "description": description, "content": { "application/json": { "schema": { "type": "object" } } } });
    let problem = json!({
        "description": "an RFC 9457 problem",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }
    });
    let get = |summary: &str| json!({ "get": { "summary": summary, "responses": { "200": ok(summary), "401": problem, "403": problem, "503": problem } } });
    let asked = json!({ "reason": { "type": "string" }, "actor": { "type": ["string", "null"] }, "if_revision": { "type": ["integer", "null"], "minimum": 0 } });
    let reload = json!({ "type": "object", "additionalProperties": false, "properties": asked });
    let mut hold = json!({ "type": "object", "required": ["state"], "additionalProperties": false, "properties": asked });
    hold["properties"]["state"] = json!({ "enum": ["open", "close", "auto"] });
    hold["properties"]["dry_run"] = json!({ "type": "boolean" });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Banyan admin API", "version": env!("CARGO_PKG_VERSION") },
        "paths": {
            "/livez": { "get": { "summary": "the process runs", "responses": { "200": ok("alive") } } },
            "/readyz": { "get": { "summary": "it takes traffic", "responses": { "200": ok("ready"), "503": ok("starting, no valid rule set, or draining") } } },
            "/metrics": { "get": { "summary": "Prometheus text format, or OpenMetrics with exemplars where that is accepted", "responses": { "200": { "description": "metrics", "content": { "text/plain": {}, "application/openmetrics-text": {} } } } } },
            "/api/v1/revision": get("what serves"),
            "/api/v1/routes": get("all routes with stage, share and counts"),
            "/api/v1/routes/{id}": { "get": {
                "summary": "one route with its rule",
                "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
                "responses": { "200": ok("the route"), "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/backends": get("all backends with their addresses and health"),
            "/api/v1/backends/{id}/breaker": { "post": {
                "summary": "hold a breaker open or closed by hand on this replica, or let it go",
                "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
                "requestBody": { "required": true, "content": { "application/json": { "schema": hold } } },
                "responses": { "200": ok("held, or let go"), "400": problem, "401": problem, "403": problem, "404": problem, "409": problem, "413": problem, "415": problem, "503": problem }
            } },
            "/api/v1/evidence/{id}": { "get": {
                "summary": "what comparisons of one route add up to",
                "parameters": [
                    { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } },
                    { "name": "hours", "in": "query", "description": "the last so many; all that are kept when absent", "schema": { "type": "integer", "minimum": 0 } }
                ],
                "responses": { "200": ok("counts and the bound they prove"), "400": problem, "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/differences": { "get": {
                "summary": "differences by path and kind, the most frequent first",
                "parameters": [{ "name": "route", "in": "query", "schema": { "type": "string" } }],
                "responses": { "200": ok("the differences"), "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/proposals": { "get": {
                "summary": "rules that would cover what legacy differs in from itself, with the YAML to pin them",
                "parameters": [{ "name": "route", "in": "query", "schema": { "type": "string" } }],
                "responses": { "200": ok("the proposals"), "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/history/{id}": { "get": {
                "summary": "how both sides of a route have done in the last half hour, by ten seconds",
                "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
                "responses": { "200": ok("points, the oldest first"), "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/egress": get("egress rules with callers, destinations and connections"),
            "/api/v1/openapi.json": get("this description"),
            "/api/v1/whoami": get("whose token it is, and its role"),
            "/api/v1/events": { "get": {
                "summary": "one snapshot of everything a second, as server-sent events; ends after `count`, or not",
                "parameters": [{ "name": "count", "in": "query", "schema": { "type": "integer", "minimum": 1 } }],
                "responses": { "200": { "description": "events named `snapshot`", "content": { "text/event-stream": {} } }, "400": problem, "401": problem, "403": problem, "503": problem }
            } },
            "/api/v1/tap": { "get": {
                "summary": "decisions as they are made: lines of the access log, filtered; ends after `count`, or not",
                "parameters": [
                    { "name": "route", "in": "query", "schema": { "type": "string" } },
                    { "name": "side", "in": "query", "schema": { "enum": ["legacy", "serverless", "none"] } },
                    { "name": "reason", "in": "query", "schema": { "type": "string" } },
                    { "name": "status", "in": "query", "description": "`502`, or a class such as `5xx`", "schema": { "type": "string" } },
                    { "name": "count", "in": "query", "schema": { "type": "integer", "minimum": 1 } }
                ],
                "responses": { "200": { "description": "JSON lines", "content": { "application/x-ndjson": {} } }, "400": problem, "401": problem, "403": problem, "404": problem, "503": problem }
            } },
            "/api/v1/unclaimed": get("paths that no route claims, as templates, with the rules they would need"),
            "/api/v1/audit": get("every change beside the rules, and whether the chain of their hashes is whole"),
            "/api/v1/routes/{id}/{action}": { "post": {
                "summary": "promote, hold, resume, share, approve, rollback, kill or unkill a route",
                "parameters": [
                    { "name": "id", "in": "path", "required": true, "schema": { "type": "string" } },
                    { "name": "action", "in": "path", "required": true, "schema": { "enum": ["promote", "hold", "resume", "share", "approve", "rollback", "kill", "unkill"] } }
                ],
                "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Change" } } } },
                "responses": { "200": ok("changed, or what would come of it"), "400": problem, "401": problem, "403": problem, "404": problem, "409": problem, "413": problem, "415": problem, "503": problem }
            } },
            "/api/v1/{switch}": { "post": {
                "summary": "turn a kill switch on or off",
                "parameters": [{ "name": "switch", "in": "path", "required": true, "schema": { "enum": ["kill", "unkill"] } }],
                "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Change" } } } },
                "responses": { "200": ok("changed"), "400": problem, "401": problem, "403": problem, "404": problem, "409": problem, "413": problem, "415": problem, "503": problem }
            } },
            "/api/v1/explain": { "post": {
                "summary": "where a request goes, and why",
                "requestBody": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Explain" } } } },
                "responses": { "200": ok("the explanation"), "400": problem, "401": problem, "403": problem, "413": problem, "415": problem, "503": problem }
            } },
            "/api/v1/reload": { "post": {
                "summary": "read the rule directory again",
                "requestBody": { "required": true, "content": { "application/json": { "schema": reload } } },
                "responses": { "200": ok("accepted"), "400": problem, "401": problem, "403": problem, "409": problem, "413": problem, "415": problem, "422": problem, "503": problem }
            } },
        },
        "security": [{}, { "token": [] }],
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } }, "schemas": {
            "Explain": {
                "type": "object",
                "additionalProperties": false,
                "required": ["url"],
                "properties": {
                    "method": { "type": "string", "default": "GET" },
                    "url": { "type": "string" },
                    "headers": { "type": "object", "additionalProperties": { "type": "string" } },
                    "client_ip": { "type": "string" },
                    "listener": { "type": "string" }
                }
            },
            "Change": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "reason": { "type": "string" }, "actor": { "type": ["string", "null"] }, "if_revision": { "type": ["integer", "null"] }, "dry_run": { "type": "boolean" },
                    "share": { "type": ["string", "null"], "description": "of share: `25%`" },
                    "scope": { "type": ["string", "null"], "description": "of kill and unkill: `all`, which it is when absent, `group:<name>` or a route's id" }
                }
            },
            "Problem": {
                "type": "object",
                "required": ["type", "title", "status"],
                "properties": {
                    "type": { "type": "string" }, "title": { "type": "string" }, "status": { "type": "integer" },
                    "detail": { "type": "string" }, "problems": { "type": "array", "items": { "type": "object" } }
                }
            }
        } }
    })
}
