//! Functions without a network: vectors for answers, faults and signatures, and what events, streams and reports must keep.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what it needs by failing")]

use aws_credential_types::Credentials;
use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue as EventValue, Message};
use banyan::aws::sign::{Scope, apply};
use banyan::lambda::answer::{answer, prelude};
use banyan::lambda::event::{Caller, EventRequest, event};
use banyan::lambda::fault;
use banyan::lambda::report::Report;
use banyan::lambda::stream::{Decoder, Piece};
use banyan::lambda::usage::Usage;
use banyan_routes::backend::EventFormat;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_http::RequestHeader;
use serde::Deserialize;
use serde_json::Value;
use std::time::{Duration, UNIX_EPOCH};

fn vectors<T: for<'de> Deserialize<'de>>(text: &str) -> Vec<T> {
    serde_yaml::from_str(text).unwrap()
}

fn format(name: &str) -> EventFormat {
    match name {
        "v2" => EventFormat::V2,
        "v1" => EventFormat::V1,
        "alb" => EventFormat::Alb { multi_value: false },
        "alb_multi" => EventFormat::Alb { multi_value: true },
        other => panic!("no format {other}"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerVector {
    name: String,
    format: String,
    payload: String,
    status: Option<u16>,
    reason: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_hex: Option<String>,
    error: Option<String>,
}

#[test]
fn a_payload_means_the_response_that_aws_documents() {
    let vectors: Vec<AnswerVector> = vectors(include_str!("vectors/answers.yaml"));
    assert!(vectors.len() >= 35);
    for vector in vectors {
        let name = &vector.name;
        let got = answer(format(&vector.format), &Bytes::from(vector.payload.clone()));
        if let Some(error) = &vector.error {
            let said = got.expect_err(name).0;
            assert!(said.contains(error), "{name}: {said}");
            continue;
        }
        let got = got.unwrap_or_else(|error| panic!("{name}: {error}"));
        let headers: Vec<(String, String)> =
            got.head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        let hex: String = got.body.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(got.head.status), vector.status, "{name}");
        assert_eq!(got.head.reason, vector.reason, "{name}");
        assert_eq!(headers, vector.headers, "{name}");
        match vector.body_hex {
            Some(expected) => assert_eq!(hex, expected, "{name}"),
            None => assert_eq!(got.body, vector.body.unwrap_or_default(), "{name}"),
        }
    }
}

#[test]
fn an_answer_of_very_many_headers_is_malformed() {
    let headers: serde_json::Map<String, Value> = (0..501).map(|n| (format!("x-{n}"), "1".into())).collect();
    let many = |key: &str, value: Value| {
        Bytes::from(serde_json::json!({ "statusCode": 200, key: value }).to_string())
    };
    let cookies: Vec<Value> = (0..501).map(|n| format!("c{n}=1").into()).collect();
    for payload in [many("headers", headers.into()), many("cookies", cookies.clone().into())] {
        assert!(answer(EventFormat::V2, &payload).unwrap_err().0.contains("more than 500"));
    }
    let lists = many("multiValueHeaders", serde_json::json!({ "x": cookies }));
    assert!(answer(EventFormat::V1, &lists).unwrap_err().0.contains("more than 500"));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultVector {
    status: Option<u16>,
    #[serde(rename = "type")]
    kind: Option<String>,
    body: Option<String>,
    function: Option<String>,
    code: String,
    client: u16,
}

#[test]
fn each_failure_of_a_call_has_a_code_of_its_own() {
    let vectors: Vec<FaultVector> = vectors(include_str!("vectors/faults.yaml"));
    for vector in vectors {
        let refusal = match (&vector.function, vector.status) {
            (Some(payload), None) => fault::function_error(payload.as_bytes()),
            (None, Some(status)) => {
                fault::refusal(status, vector.kind.as_deref(), vector.body.unwrap_or_default().as_bytes())
            }
            other => panic!("a vector is one of both: {other:?}"),
        };
        assert_eq!((refusal.fault.code, refusal.fault.status), (vector.code.as_str(), vector.client));
        assert!(refusal.detail.chars().count() <= 300 && !refusal.detail.contains('\n'));
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureVector {
    name: String,
    request: String,
    host: Option<String>,
    service: Option<String>,
    content_type: Option<String>,
    body: Option<String>,
    token: Option<String>,
    signature: String,
}

fn signed(
    vector: &SignatureVector,
    change: impl Fn(&mut Scope, &mut RequestHeader),
) -> (RequestHeader, String) {
    let (method, target) = vector.request.split_once(' ').unwrap();
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    head.insert_header("Host", vector.host.as_deref().unwrap_or("example.amazonaws.com")).unwrap();
    if let Some(content_type) = &vector.content_type {
        head.insert_header("Content-Type", content_type).unwrap();
    }
    // None of these is covered, or may survive: the client's own proofs, and headers that a hop changes.
    head.insert_header("Authorization", "Basic Zm9v").unwrap();
    head.insert_header("X-Amz-Security-Token", "the client's").unwrap();
    head.insert_header("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD").unwrap();
    head.insert_header("X-Forwarded-For", "10.0.0.1").unwrap();
    let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    let credentials = Credentials::new("AKIDEXAMPLE", secret, vector.token.clone(), None, "test");
    let service = vector.service.as_deref().unwrap_or("service").into();
    let mut scope = Scope { service, region: "us-east-1".into(), move_authorization_to: None };
    change(&mut scope, &mut head);
    let at = UNIX_EPOCH + Duration::from_secs(1_440_938_160);
    let body = vector.body.clone().unwrap_or_default();
    apply(&scope, &credentials, &mut head, body.as_bytes(), at).unwrap();
    let authorization = head.headers.get("authorization").unwrap().to_str().unwrap().to_owned();
    let signature = authorization.rsplit_once("Signature=").unwrap().1.to_owned();
    (head, signature)
}

#[test]
fn signatures_are_those_of_the_published_examples() {
    let vectors: Vec<SignatureVector> = vectors(include_str!("vectors/signatures.yaml"));
    assert!(vectors.len() >= 10);
    for vector in &vectors {
        let (head, signature) = signed(vector, |_, _| {});
        assert_eq!(signature, vector.signature, "{}", vector.name);
        assert_eq!(head.headers.get("x-amz-date").unwrap(), "20150830T123600Z");
        let token = head.headers.get("x-amz-security-token").map(|token| token.to_str().unwrap().to_owned());
        assert_eq!(token, vector.token, "{}: a session token is ours or not there", vector.name);
        assert!(!head.headers.contains_key("x-amz-content-sha256"));
    }
}

#[test]
fn service_region_path_query_body_and_covered_headers_all_change_the_signature() {
    let vectors: Vec<SignatureVector> = vectors(include_str!("vectors/signatures.yaml"));
    let base = vectors.iter().find(|vector| vector.name == "post-x-www-form-urlencoded").unwrap();
    let of = |change: &dyn Fn(&mut Scope, &mut RequestHeader)| signed(base, change).1;
    let changed = [
        of(&|scope, _| scope.service = "lambda".into()),
        of(&|scope, _| scope.region = "eu-west-1".into()),
        of(&|_, head| head.set_raw_path(b"/other").unwrap()),
        of(&|_, head| head.set_raw_path(b"/?a=1").unwrap()),
        of(&|_, head| head.insert_header("Host", "other.amazonaws.com").unwrap()),
        of(&|_, head| head.insert_header("Content-Type", "text/plain").unwrap()),
        of(&|_, head| head.insert_header("X-Amz-Invocation-Type", "Event").unwrap()),
        signed(
            &SignatureVector {
                body: Some("Param1=value2".into()),
                name: String::new(),
                request: base.request.clone(),
                host: None,
                service: None,
                content_type: base.content_type.clone(),
                token: None,
                signature: String::new(),
            },
            |_, _| {},
        )
        .1,
    ];
    let mut all: Vec<&String> = changed.iter().chain([&base.signature]).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), changed.len() + 1);
    // What is not covered may change on the way.
    assert_eq!(of(&|_, head| head.insert_header("X-Forwarded-For", "10.9.9.9").unwrap()), base.signature);
}

#[test]
fn the_clients_authorization_is_moved_where_the_rule_says_and_dropped_otherwise() {
    let vectors: Vec<SignatureVector> = vectors(include_str!("vectors/signatures.yaml"));
    let (head, _) = signed(&vectors[0], |scope, _| {
        scope.move_authorization_to = Some(HeaderName::from_static("x-client-authorization"));
    });
    assert_eq!(head.headers.get("x-client-authorization").unwrap(), "Basic Zm9v");
    let (head, _) = signed(&vectors[0], |_, _| {});
    assert_eq!(head.headers.get_all("authorization").iter().count(), 1);
    assert!(!head.headers.values().any(|value| value == "Basic Zm9v"));
}

struct Request {
    method: Method,
    target: &'static str,
    headers: Vec<(&'static str, &'static [u8])>,
    body: Vec<u8>,
}

fn told(kind: &str, request: &Request) -> Value {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    let (path, query) = banyan_routes::path::split_target(request.target);
    let facts = EventRequest {
        method: &request.method,
        path,
        query,
        headers: &headers,
        host: "shop.example.com",
        body: &request.body,
        client: "203.0.113.7".parse().unwrap(),
        protocol: "HTTP/1.1",
        request_id: "0af76519-16cd-43dd-8448-eb211c80319c",
        time: "2020-03-12T19:03:58.39Z".parse().unwrap(),
        resource: "/orders/{id}",
        parameters: &[("id", "4%2F2")],
        account: "123456789012",
        backend: "orders-fn",
        region: "eu-west-1",
        caller: Caller::default(),
    };
    serde_json::from_slice(&event(format(kind), &facts)).unwrap()
}

fn example() -> Request {
    Request {
        method: Method::POST,
        target: "/orders/4%2F2?a=1&a=2&b=%20x+y&empty&%E4=1",
        headers: vec![
            ("host", b"shop.example.com"),
            ("content-type", b"application/json; charset=utf-8"),
            ("x-a", b"1"),
            ("x-a", b"2"),
            ("cookie", b"c1=v1; c2=v2"),
            ("user-agent", b"ua/1"),
            ("x-latin", b"caf\xe9"),
        ],
        body: b"{\"k\":\"\xc3\xa4\"}".to_vec(),
    }
}

#[test]
fn a_v2_event_has_every_field() {
    let event = told("v2", &example());
    assert_eq!(event["version"], "2.0");
    assert_eq!(event["routeKey"], "ANY /orders/{id}");
    assert_eq!(event["rawPath"], "/orders/4%2F2");
    assert_eq!(event["rawQueryString"], "a=1&a=2&b=%20x+y&empty&%E4=1");
    assert_eq!(event["cookies"], serde_json::json!(["c1=v1", "c2=v2"]));
    assert_eq!(event["headers"]["x-a"], "1,2");
    assert_eq!(event["headers"]["x-latin"], "café");
    assert!(event["headers"].get("cookie").is_none());
    let query = serde_json::json!({"a": "1,2", "b": " x y", "empty": "", "%E4": "1"});
    assert_eq!(event["queryStringParameters"], query);
    assert_eq!(event["pathParameters"], serde_json::json!({"id": "4%2F2"}));
    let context = &event["requestContext"];
    let http = serde_json::json!({"method": "POST", "path": "/orders/4%2F2", "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7", "userAgent": "ua/1"});
    assert_eq!(context["http"], http);
    assert_eq!(context["accountId"], "123456789012");
    assert_eq!(
        (&context["domainName"], &context["domainPrefix"]),
        (&"shop.example.com".into(), &"shop".into())
    );
    assert_eq!(
        (&context["time"], &context["timeEpoch"]),
        (&"12/Mar/2020:19:03:58 +0000".into(), &1_584_039_838_390i64.into())
    );
    assert_eq!(context["requestId"], "0af76519-16cd-43dd-8448-eb211c80319c");
    assert_eq!((&event["body"], &event["isBase64Encoded"]), (&"{\"k\":\"ä\"}".into(), &false.into()));
}

#[test]
fn a_v1_event_has_both_maps_and_the_last_value_in_the_single_ones() {
    let event = told("v1", &example());
    assert_eq!(
        (&event["version"], &event["resource"], &event["path"]),
        (&"1.0".into(), &"/orders/{id}".into(), &"/orders/4%2F2".into())
    );
    assert_eq!(event["headers"]["x-a"], "2");
    assert_eq!(event["multiValueHeaders"]["x-a"], serde_json::json!(["1", "2"]));
    assert_eq!(event["headers"]["cookie"], "c1=v1; c2=v2");
    assert_eq!(event["queryStringParameters"]["a"], "2");
    assert_eq!(event["multiValueQueryStringParameters"]["a"], serde_json::json!(["1", "2"]));
    assert_eq!(event["requestContext"]["identity"]["sourceIp"], "203.0.113.7");
    assert_eq!(event["requestContext"]["resourcePath"], "/orders/{id}");
    assert!(event["stageVariables"].is_null());
    let bare = told("v1", &Request { method: Method::GET, target: "/", headers: vec![], body: vec![] });
    for field in
        ["headers", "multiValueHeaders", "queryStringParameters", "multiValueQueryStringParameters", "body"]
    {
        assert!(
            bare.as_object().unwrap().contains_key(field) && bare[field].is_null(),
            "{field} is null, not absent"
        );
    }
}

#[test]
fn an_alb_event_keeps_query_values_encoded_and_has_one_kind_of_map() {
    let single = told("alb", &example());
    assert_eq!(single["queryStringParameters"]["b"], "%20x+y");
    assert_eq!(
        (&single["headers"]["x-a"], &single["queryStringParameters"]["a"]),
        (&"2".into(), &"2".into())
    );
    assert!(single.get("multiValueHeaders").is_none());
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/orders-fn/banyan";
    assert_eq!(single["requestContext"]["elb"]["targetGroupArn"], arn);
    let multi = told("alb_multi", &example());
    assert_eq!(multi["multiValueHeaders"]["x-a"], serde_json::json!(["1", "2"]));
    assert_eq!(multi["multiValueQueryStringParameters"]["a"], serde_json::json!(["1", "2"]));
    assert!(multi.get("headers").is_none() && multi.get("queryStringParameters").is_none());
    let bare = told("alb", &Request { method: Method::GET, target: "/", headers: vec![], body: vec![] });
    assert_eq!((&bare["body"], &bare["queryStringParameters"]), (&"".into(), &serde_json::json!({})));
}

#[test]
fn no_byte_of_a_body_is_lost_in_any_format() {
    let bodies: [Vec<u8>; 5] =
        [b"plain".to_vec(), (0..=255).collect(), "ünï 😀".into(), vec![0xff, 0xfe], vec![b'a'; 100_000]];
    let types: [Option<&'static [u8]>; 7] = [
        None,
        Some(b"text/plain"),
        Some(b"application/json"),
        Some(b"application/vnd.api+json; charset=utf-8"),
        Some(b"application/x-www-form-urlencoded"),
        Some(b"image/png"),
        Some(b"TEXT/HTML"),
    ];
    for kind in ["v2", "v1", "alb", "alb_multi"] {
        for (body, content_type) in bodies.iter().flat_map(|body| types.iter().map(move |it| (body, *it))) {
            for encoding in [None, Some(b"gzip".as_slice())] {
                let headers = content_type.map(|it| ("content-type", it)).into_iter();
                let headers = headers.chain(encoding.map(|it| ("content-encoding", it))).collect();
                let event =
                    told(kind, &Request { method: Method::PUT, target: "/", headers, body: body.clone() });
                let text = event["body"].as_str().unwrap();
                let encoded = event["isBase64Encoded"].as_bool().unwrap();
                let back = if encoded { STANDARD.decode(text).unwrap() } else { text.as_bytes().to_vec() };
                assert_eq!(back, *body, "{kind} {content_type:?} {encoding:?}");
                let binary = content_type == Some(b"image/png")
                    || encoding.is_some()
                    || std::str::from_utf8(body).is_err();
                assert!(encoded || !binary, "{kind}: binary is told by base64");
            }
        }
    }
}

fn frame(headers: &[(&'static str, &'static str)], payload: &[u8]) -> Vec<u8> {
    let headers = headers.iter().map(|(name, value)| Header::new(*name, EventValue::String((*value).into())));
    let message = Message::new_from_parts(headers.collect(), Bytes::copy_from_slice(payload));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn chunk(payload: &[u8]) -> Vec<u8> {
    frame(&[(":message-type", "event"), (":event-type", "PayloadChunk")], payload)
}

fn complete(payload: &[u8]) -> Vec<u8> {
    frame(&[(":message-type", "event"), (":event-type", "InvokeComplete")], payload)
}

fn pieces(bytes: &[u8], step: usize) -> Vec<Piece> {
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    for part in bytes.chunks(step) {
        decoder.feed(part, &mut out).unwrap();
    }
    out
}

#[test]
fn a_streams_head_and_body_are_the_same_however_its_bytes_arrive() {
    let start = b"{\"statusCode\":203,\"headers\":{\"content-type\":\"text/event-stream\"},\"cookies\":[\"a=1\"]}\0\0\0\0";
    let stream =
        [chunk(start), chunk(b"\0\0\0\0one "), chunk(b"two"), complete(b"{\"LogResult\":\"bG9n\"}")].concat();
    for step in [1, 2, 7, 64, stream.len()] {
        let got = pieces(&stream, step);
        let Piece::Head(head) = &got[0] else { panic!("{got:?}") };
        assert_eq!(head.status, 203);
        assert_eq!(head.headers.len(), 2);
        let body: Vec<&[u8]> = got
            .iter()
            .filter_map(|piece| if let Piece::Body(body) = piece { Some(body.as_ref()) } else { None })
            .collect();
        assert_eq!(body.concat(), b"one two");
        assert_eq!(got.last(), Some(&Piece::End { log: Some("bG9n".into()) }));
    }
}

#[test]
fn a_stream_without_a_prelude_is_the_payload_of_a_function_that_does_not_stream() {
    let unnamed = frame(&[(":message-type", "error")], b"broken");
    assert!(matches!(&pieces(&unnamed, 9)[..], [Piece::Failed { code, .. }] if code == "error"));
    let got = pieces(&[chunk(b"{\"statusCode\":"), chunk(b"204}"), complete(b"{}")].concat(), 9);
    assert_eq!(got, [Piece::Whole(Bytes::from_static(b"{\"statusCode\":204}")), Piece::End { log: None }]);
}

#[test]
fn a_stream_that_fails_says_so_and_one_that_is_broken_is_refused() {
    let failed = complete(b"{\"ErrorCode\":\"Unhandled\",\"ErrorDetails\":\"boom\"}");
    let got = pieces(&[chunk(b"{}\0\0\0\0\0\0\0\0part"), failed].concat(), 33);
    assert_eq!(got.last(), Some(&Piece::Failed { code: "Unhandled".into(), detail: "boom".into() }));
    let mut broken = chunk(b"{}\0\0\0\0\0\0\0\0x");
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert!(Decoder::default().feed(&broken, &mut Vec::new()).is_err(), "a checksum that does not fit");
    assert!(Decoder::default().feed(&[0xff; 16], &mut Vec::new()).is_err(), "a frame of 4 GB");
    assert!(Decoder::default().feed(&[0; 16], &mut Vec::new()).is_err(), "a frame of nothing");
    assert!(prelude(b"not json").is_err());
}

#[test]
fn the_report_line_gives_cost_memory_and_cold_starts() {
    let log = "START RequestId: 1 Version: 3\nhello\nEND RequestId: 1\nREPORT RequestId: 1\tDuration: 12.34 ms\tBilled Duration: 13 ms\tMemory Size: 1024 MB\tMax Memory Used: 132 MB\tInit Duration: 245.61 ms\t\n";
    let report = Report::read(STANDARD.encode(log).as_bytes()).unwrap();
    let init = Some(Duration::from_secs_f64(0.24561));
    assert_eq!(report, Report { billed: Duration::from_millis(13), memory_mb: 1024, used_mb: 132, init });
    let warm = "REPORT RequestId: 2\tDuration: 1.00 ms\tBilled Duration: 1 ms\tMemory Size: 128 MB\tMax Memory Used: 60 MB";
    assert_eq!(Report::parse(warm).unwrap().init, None);
    let restored = format!("{warm}\tRestore Duration: 500.00 ms\tBilled Restore Duration: 400 ms");
    assert_eq!(Report::parse(&restored).unwrap().init, Some(Duration::from_millis(500)));
    for nothing in
        ["", "hello", "REPORT RequestId: 1", "REPORT RequestId: 1\tBilled Duration: x ms\tMemory Size: 1 MB"]
    {
        assert_eq!(Report::parse(nothing), None, "{nothing:?}");
    }
    let odd = "REPORT RequestId: 1\tBilled Duration: 1 ms\tMemory Size: 1 MB\tMax Memory Used: inf MB\tInit Duration: NaN ms";
    let odd = Report::parse(odd).unwrap();
    assert_eq!((odd.used_mb, odd.init), (0, None));
    let usage = Usage::default();
    assert_eq!(usage.figures(), None);
    usage.add(&report);
    usage.add(&Report { billed: Duration::from_millis(27), init: None, ..report });
    let figures = usage.figures().unwrap();
    assert_eq!((figures.reports, figures.cold_starts), (2, 1));
    // 20 ms at 1 GB: 20,000 GB-seconds for a million.
    assert!((figures.cost_per_million(0.20, 0.000_016_666_7) - 0.533_334).abs() < 1e-6);
    assert_eq!(figures.hint().as_deref(), Some("1024 MB configured, 132 MB used"));
}
