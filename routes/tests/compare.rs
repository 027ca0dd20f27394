//! Comparing two answers: vectors, and what must hold for any pair.

#![expect(clippy::unwrap_used, reason = "a test says what it needs by failing")]

use banyan_routes::compare::rules::Rules;
use banyan_routes::compare::{Answer, DIFFERENCES_MAX, Difference, Kind, Verdict, compare};
use banyan_routes::noise::{Noise, State};
use banyan_routes::redact::Redactor;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    legacy: String,
    serverless: String,
    #[serde(rename = "type")]
    media_type: Option<String>,
    legacy_status: Option<u16>,
    serverless_status: Option<u16>,
    #[serde(default)]
    legacy_headers: BTreeMap<String, String>,
    #[serde(default)]
    serverless_headers: BTreeMap<String, String>,
    #[serde(default)]
    ignore: Vec<String>,
    #[serde(default)]
    rules: BTreeMap<String, String>,
    /// Legacy's text is sent in this character set.
    legacy_charset: Option<String>,
    serverless_charset: Option<String>,
    #[serde(default)]
    differs: Vec<(String, String)>,
    unknown: Option<String>,
    #[serde(default)]
    truncated: bool,
    /// By which the client had asked.
    #[serde(default)]
    host: String,
}

fn headers(media_type: &str, given: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_str(media_type).unwrap());
    for (name, value) in given {
        headers
            .insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn each_pair_says_what_its_vector_says() {
    let vectors: Vec<Vector> = serde_yaml::from_str(include_str!("pairs/compare.yaml")).expect("vectors");
    assert!(vectors.len() >= 120);
    let mut wrong = Vec::new();
    for vector in vectors {
        let media_type = vector.media_type.as_deref().unwrap_or("application/json");
        let (a, b) =
            (headers(media_type, &vector.legacy_headers), headers(media_type, &vector.serverless_headers));
        let answer = |status: Option<u16>, headers, body| Answer {
            status: status.unwrap_or(200),
            headers,
            body,
            truncated: vector.truncated,
            host: &vector.host,
        };
        let (one, other) = (
            encoded(&vector.legacy, vector.legacy_charset.as_deref()),
            encoded(&vector.serverless, vector.serverless_charset.as_deref()),
        );
        let legacy = answer(vector.legacy_status, &a, &one);
        let serverless = answer(vector.serverless_status, &b, &other);
        let mut rules = Rules::default();
        vector.ignore.iter().for_each(|entry| rules.ignore(entry).expect("ignore"));
        vector.rules.iter().for_each(|(path, rule)| rules.typed(path, rule).expect("rule"));
        let got = match compare(&legacy, &serverless, &rules) {
            Verdict::Match => (Vec::new(), None),
            Verdict::Mismatch(found) => {
                (found.into_iter().map(|it| (it.path, it.kind.as_str().to_owned())).collect(), None)
            }
            Verdict::Inconclusive(unknown) => (Vec::new(), Some(unknown.as_str().to_owned())),
        };
        if got != (vector.differs.clone(), vector.unknown.clone()) {
            wrong.push(format!(
                "{}: expected {:?} {:?}, got {got:?}",
                vector.name, vector.differs, vector.unknown
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn differences(verdict: Verdict) -> Vec<Difference> {
    match verdict {
        Verdict::Mismatch(found) => found,
        Verdict::Match | Verdict::Inconclusive(_) => Vec::new(),
    }
}

#[test]
fn a_list_that_differs_everywhere_hides_no_other_path() {
    let items = |price: u32| (0..60).map(|it| json!({ "id": it, "price": price })).collect::<Vec<_>>();
    let one = json!({ "items": items(1), "total": 1 }).to_string();
    let other = json!({ "items": items(2), "total": 2, "z": true }).to_string();
    let found = differences(verdict(one.as_bytes(), other.as_bytes()));
    let paths: BTreeSet<&str> = found.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, BTreeSet::from(["$.items[].price", "$.total", "$.z"]));
    assert!(found.len() <= DIFFERENCES_MAX);
}

#[test]
fn headers_with_letters_beyond_ascii_are_there() {
    let pairs: [(&str, &[u8], &[u8]); 4] = [
        (
            "content-disposition",
            "attachment; filename=\"공지.pdf\"".as_bytes(),
            "attachment; filename=\"다른.exe\"".as_bytes(),
        ),
        ("location", "/검색".as_bytes(), "/다른".as_bytes()),
        ("set-cookie", "a=한; Path=/".as_bytes(), "b=글; Path=/x; Secure".as_bytes()),
        ("location", b"/\xb0\xa1", b"/\xb0\xa2"),
    ];
    for (name, one, other) in pairs {
        let with = |value: &[u8]| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).unwrap())])
        };
        let (one, other) = (with(one), with(other));
        let answer = |headers| Answer { status: 200, headers, body: b"", truncated: false, host: "" };
        let verdict = compare(&answer(&one), &answer(&other), &Rules::default());
        assert!(matches!(verdict, Verdict::Mismatch(_)), "{name}");
        assert_eq!(compare(&answer(&one), &answer(&one), &Rules::default()), Verdict::Match);
    }
}

/// What a parser or an alignment would take minutes or gigabytes for; each of them twice, with another end.
#[test]
fn documents_that_would_take_too_long_are_given_up_at_once() {
    let counted = |count: usize, item: &dyn Fn(usize) -> String| (0..count).map(item).collect::<String>();
    let lines = |part: usize| counted(1_990, &|line| format!("{part} {line}\n"));
    let documents = [
        ("text/html", "<div>".repeat(50_000)),
        // Where a scan of tags could lose its way, and a parser does not.
        ("text/html", ["<p a=b\">", &"<div>".repeat(50_000)].concat()),
        ("text/html", ["<!-->", &"<div>".repeat(50_000)].concat()),
        ("text/html", ["<svg><title>", &"<div>".repeat(50_000)].concat()),
        ("text/html", "<b><div></b>".repeat(20_000)),
        ("text/html", "<span><div></span>".repeat(20_000)),
        ("text/html", "<div><object></div>".repeat(20_000)),
        ("text/html", "<rt>".repeat(20_000)),
        ("text/html", "<optgroup>".repeat(20_000)),
        (
            "text/html",
            ["<p>", &counted(400, &|it| format!("<b a={it}>")), "</p>", &"<p>x</p>".repeat(8_000)].concat(),
        ),
        (
            "text/html",
            ["<p>", &counted(120, &|it| format!("<b a={it}>")), "</p>", &"<p>x</p>".repeat(30_000)].concat(),
        ),
        ("text/html", format!("<p {}>", counted(20_000, &|it| format!("a{it}=1 ")))),
        ("text/xml", format!("<r><a {}/></r>", counted(20_000, &|it| format!("a{it}=\"1\" ")))),
        ("application/json", format!("{{{}\"z\":0}}", counted(40_000, &|it| format!("\"k{it}\":1,")))),
        (
            "multipart/form-data; boundary=b",
            counted(40, &|it| {
                format!("--b\r\nContent-Disposition: form-data; name=p{it}\r\n\r\n{}\r\n", lines(it))
            }) + "--b--\r\n",
        ),
    ];
    for (media_type, one) in documents {
        let other = match media_type {
            "application/json" => one.replace(":1,", ":2,"),
            "text/xml" => one.replace("<r>", "<r>x"),
            // Each line of each part is another.
            "multipart/form-data; boundary=b" => one.replace(" 1", " x1"),
            _ => format!("{one}<i>x"),
        };
        let headers = headers(media_type, &BTreeMap::new());
        let answer = |body| Answer { status: 200, headers: &headers, body, truncated: false, host: "" };
        let started = std::time::Instant::now();
        let verdict = compare(&answer(one.as_bytes()), &answer(other.as_bytes()), &Rules::default());
        assert_ne!(verdict, Verdict::Match);
        // A debug build on a busy machine; the worst of them took half a minute.
        assert!(
            started.elapsed().as_secs() < 5,
            "{media_type} {}: {:?}",
            &one[..60.min(one.len())],
            started.elapsed()
        );
    }
}

#[test]
fn what_people_call_their_files_is_not_kept() {
    let redactor = Redactor::new([7; 32]);
    let part = |name: &str, kind: &str| {
        format!(
            "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"{name}\"\r\nContent-Type: {kind}\r\n\r\nx\r\n--b--"
        )
    };
    let headers = headers("multipart/form-data; boundary=b", &BTreeMap::new());
    let (one, other) = (
        part("kim_minsu_900101-1234567.pdf", "kim@example.com"),
        part("other.pdf", "text/plain; name=\"kim 900101\""),
    );
    let answer = |body| Answer { status: 200, headers: &headers, body, truncated: false, host: "" };
    let verdict = compare(&answer(one.as_bytes()), &answer(other.as_bytes()), &Rules::default());
    let found = differences(verdict);
    assert_eq!(found.len(), 2);
    for it in &found {
        let (path, legacy, serverless) = redactor.difference(it);
        assert!(
            ![path, legacy, serverless].iter().any(|text| text.contains("kim") || text.contains("9001")),
            "{it:?}"
        );
    }
    for path in [
        "$[\"/@kim@example.com\"]",
        "$[\"a/@kim@example.com\"]",
        "part.kim.minsu@example.com",
        "/kim/a@example.com",
    ] {
        assert!(!redactor.path(path).contains("kim"), "{}", redactor.path(path));
    }
    assert_eq!(redactor.path("/Envelope/Body/@id"), "/Envelope/Body/@id");
}

#[test]
fn what_is_real_is_proposed_by_nobody() {
    let with = |text: &str| verdict(br#"{"a":1,"promo":1}"#, text.as_bytes());
    let (same, gone) = (differences(with(r#"{"a":1,"promo":1}"#)), differences(with(r#"{"a":1}"#)));
    let mut noise = Noise::default();
    (0..44).for_each(|it| noise.control(if it == 0 { &gone } else { &same }));
    // Legacy leaves it out once in 44; serverless always does.
    let mut other = noise.clone();
    (0..112).for_each(|_| other.compared(&gone));
    assert_eq!(other.state("$.promo", Kind::Missing), State::Real);
    assert_eq!(other.proposals(), Vec::new());
    // As often as legacy itself, it is noise.
    (0..112).for_each(|it| noise.compared(if it % 44 == 0 { &gone } else { &same }));
    assert_eq!(noise.state("$.promo", Kind::Missing), State::Noise);
    assert_eq!(noise.proposals().len(), 1);
}

fn encoded(text: &str, charset: Option<&str>) -> Vec<u8> {
    let encoding =
        charset.map_or(encoding_rs::UTF_8, |it| encoding_rs::Encoding::for_label(it.as_bytes()).unwrap());
    encoding.encode(text).0.into_owned()
}

fn verdict(a: &[u8], b: &[u8]) -> Verdict {
    let headers = headers("application/json", &BTreeMap::new());
    let answer = |body| Answer { status: 200, headers: &headers, body, truncated: false, host: "" };
    compare(&answer(a), &answer(b), &Rules::default())
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e6..1e6f64).prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-z .]{0,4}", inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// Somewhere in the document one leaf changed, or none was there to change.
fn changed(value: &mut Value) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().any(changed),
        Value::Object(map) => map.values_mut().any(changed),
        Value::String(text) => {
            text.push('!');
            true
        }
        Value::Bool(it) => {
            *it = !*it;
            true
        }
        Value::Null => {
            *value = json!("was null");
            true
        }
        Value::Number(_) => {
            *value = json!("was a number");
            true
        }
    }
}

/// Pieces of pages, put together by chance.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "<div>",
        "</div>",
        "<span>",
        "</span>",
        "<b>",
        "</b>",
        "<a href=x>",
        "</a>",
        "<p>",
        "</p>",
        "<table>",
        "</table>",
        "<tr>",
        "<td>",
        "</td>",
        "<ul>",
        "<li>",
        "</ul>",
        "<svg>",
        "</svg>",
        "<circle/>",
        "<title>",
        "</title>",
        "<object>",
        "</object>",
        "<select>",
        "<option>",
        "</select>",
        "<form>",
        "</form>",
        "<rt>",
        "<button>",
        "</button>",
        "<template>",
        "</template>",
        "<!-->",
        "<!-- x -->",
        "<p a=b\">",
        "<p a=\"",
        "\">",
        "x < y",
        "<h1>",
        "</h1>",
        "<nobr>",
        "<math>",
        "<mi>",
        "</math>",
    ]);
    (prop::collection::vec(piece, 1..6), 300..600_usize)
        .prop_map(|(pieces, times)| pieces.concat().repeat(times))
}

proptest! {
    /// What is let through to the parser comes out of it as deep as a walk may go, or a few times that: never by the length of the page.
    #[test]
    fn what_is_parsed_is_not_deep(page in soup()) {
        if !banyan_routes::compare::bounds::is_too_much_html(&page) {
            let parsed = scraper::Html::parse_document(&page);
            let deepest = parsed.tree.nodes().map(|node| node.ancestors().count()).max().unwrap_or_default();
            prop_assert!(deepest <= 2 * banyan_routes::compare::bounds::NESTED_MAX, "{deepest}: {page}");
        }
    }
}

proptest! {
    #[test]
    fn a_document_equals_itself_however_it_is_laid_out(document in documents()) {
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        prop_assert_eq!(verdict(document.to_string().as_bytes(), pretty.as_bytes()), Verdict::Match);
    }

    #[test]
    fn no_change_of_a_leaf_is_lost(document in documents()) {
        let mut other = document.clone();
        if changed(&mut other) {
            let found = verdict(document.to_string().as_bytes(), other.to_string().as_bytes());
            prop_assert!(matches!(&found, Verdict::Mismatch(all) if !all.is_empty() && all.len() <= DIFFERENCES_MAX), "{found:?}");
        }
    }

    #[test]
    fn the_walk_says_what_a_diff_of_json_patch_says(a in documents(), b in documents(), pick in any::<bool>()) {
        let mut other = if pick { a.clone() } else { b };
        if pick {
            changed(&mut other);
        }
        let same = json_patch::diff(&a, &other).is_empty();
        let found = verdict(a.to_string().as_bytes(), other.to_string().as_bytes());
        prop_assert_eq!(found == Verdict::Match, same, "{} {}", a, other);
    }

    #[test]
    fn any_bytes_are_compared_without_a_panic(a in prop::collection::vec(any::<u8>(), 0..200), b in prop::collection::vec(any::<u8>(), 0..200)) {
        let same = a == b;
        prop_assert!(!same || verdict(&a, &b) == Verdict::Match);
        let _ = verdict(&a, &b);
    }
}

#[test]
fn what_is_nested_or_long_beyond_sense_is_not_called_equal() {
    let deep = |leaf: &str| format!("{}{leaf}{}", "[".repeat(100), "]".repeat(100));
    assert!(matches!(verdict(deep("1").as_bytes(), deep("2").as_bytes()), Verdict::Inconclusive(_)));
    let long = |last: u32| {
        let mut items: Vec<u32> = (0..300_000).collect();
        items.push(last);
        serde_json::to_string(&items).unwrap()
    };
    assert!(matches!(verdict(long(1).as_bytes(), long(2).as_bytes()), Verdict::Inconclusive(_)));
}
