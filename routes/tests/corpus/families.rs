//! Documents with a value that changes by itself and one that a client would miss.
//!
//! Input: a seed. Output: pairs in which only the noise differs, in which business differs amid the noise, and in which the noise breaks
//! its shape; the rules that controls teach. Must not: hold a pair whose verdict needs an opinion.

use crate::{FORM, HTML, JSON, Pair, Side, TEXT, XML, seeded, verdict};
use banyan_routes::compare::Verdict;
use banyan_routes::compare::rules::Rules;
use banyan_routes::noise::Noise;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

const NOISE_PAIRS: u64 = 6;

/// A document with one value that is noise (`{N}`) and one that is business (`{B}`).
pub struct Family {
    pub kind: &'static str,
    media_type: &'static str,
    template: &'static str,
    /// The value at a moment, as it stands in the document.
    noise: fn(&mut StdRng, u64) -> String,
    /// Where `{N}` and `{B}` stand.
    pub path: &'static str,
    business: &'static str,
    /// Values that are no longer of the shape; each is a real difference.
    broken: &'static [&'static str],
}

const ORDER: &str =
    r#"{"order":{"id":42,"city":"{B}","x":{N},"lines":[{"sku":"A1","qty":2},{"sku":"B7","qty":1}]}}"#;

/// The moment `t` seconds after a summer day in 2026.
fn moment(t: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(1_780_000_000 + t as i64).unwrap()
}

fn quoted(text: impl std::fmt::Display) -> String {
    format!("\"{text}\"")
}

fn letters(rng: &mut StdRng, from: &[u8], count: usize) -> String {
    (0..count).map(|_| char::from(from[rng.random_range(0..from.len())])).collect()
}

fn uuid(rng: &mut StdRng) -> String {
    let hex = letters(rng, b"0123456789abcdef", 32);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn token(rng: &mut StdRng) -> String {
    // A digit in each, as a random token of this length has.
    letters(rng, b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789", 21) + "7"
}

fn shuffled(rng: &mut StdRng, items: &[&str]) -> String {
    let mut items = items.to_vec();
    items.shuffle(rng);
    format!("[{}]", items.join(","))
}

pub const FAMILIES: [Family; 27] = [
    Family {
        kind: "date rfc3339",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| quoted(moment(t)),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"ERROR\"", "\"2026-11-23 12:00:00\"", "\"2001-01-01T00:00:00Z\"", "null", "\"\""],
    },
    Family {
        kind: "date http",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| quoted(moment(t).strftime("%a, %d %b %Y %H:%M:%S GMT")),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"today\"", "\"2026-05-28T20:26:40Z\"", "1780000000"],
    },
    Family {
        kind: "date local",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| quoted(moment(t).strftime("%Y-%m-%d %H:%M:%S")),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"2026-05-28T20:26:40Z\"", "\"28.05.2026\""],
    },
    Family {
        kind: "clock",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| quoted(moment(t).strftime("%H:%M:%S")),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"8:26 PM\"", "\"late\""],
    },
    Family {
        kind: "epoch ms",
        media_type: JSON,
        template: ORDER,
        noise: |rng, t| (moment(t).as_millisecond() + rng.random_range(0..400)).to_string(),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["1780000000", "0", "\"1780000000000\"", "1580000000000"],
    },
    Family {
        kind: "epoch s",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| moment(t).as_second().to_string(),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["1780000000000", "1"],
    },
    Family {
        kind: "id uuid",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(uuid(rng)),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"ERROR\"", "\"6fa459ea-ee8a-3ca4\"", "7", "{}"],
    },
    Family {
        kind: "id with a prefix",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(format!("BK-{}", rng.random_range(1..99_999))),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"BOOKING-17\"", "\"ERROR\"", "\"BK-\""],
    },
    Family {
        kind: "id hex",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(letters(rng, b"0123456789abcdef", 30) + "af"),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"deadbeef\"", "\"not hex but thirty-two letters!!\""],
    },
    Family {
        kind: "token",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(token(rng)),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"\"", "\"expired\"", "\"q8Zt51\"", "\"permission denied by 2\""],
    },
    Family {
        kind: "token jwt",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(format!("eyJhbGciOiJIUzI1NiJ9.eyJ{}.{}", token(rng), token(rng))),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"eyJhbGciOiJIUzI1NiJ9\"", "\"none\""],
    },
    Family {
        kind: "order of values",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| shuffled(rng, &["\"wifi\"", "\"meal\"", "\"bag\"", "\"seat\""]),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["[\"wifi\",\"meal\",\"bag\"]", "[\"wifi\",\"meal\",\"bag\",\"bag\"]", "[]", "\"wifi\""],
    },
    Family {
        kind: "order of objects",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| shuffled(rng, &[r#"{"id":1,"v":"a"}"#, r#"{"id":2,"v":"b"}"#, r#"{"id":3,"v":"c"}"#]),
        path: "$.order.x",
        business: "$.order.city",
        broken: &[
            r#"[{"id":1,"v":"a"},{"id":2,"v":"b"},{"id":3,"v":"X"}]"#,
            r#"[{"id":1,"v":"a"},{"id":2,"v":"b"}]"#,
            r#"[{"id":1,"v":"a"},{"id":2,"v":"b"},{"id":3}]"#,
        ],
    },
    Family {
        kind: "rate",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| format!("1.08{}", rng.random_range(100..900)),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["1.3", "0", "-1.08", "\"1.08\"", "108.3"],
    },
    Family {
        kind: "float jitter",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| format!("99.99999{}", rng.random_range(1000..9999)),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["98.0", "null"],
    },
    Family {
        kind: "rate as text",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(format!("1342.{}", rng.random_range(10..99))),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"1500.00\"", "\"n/a\""],
    },
    Family {
        kind: "counter",
        media_type: JSON,
        template: ORDER,
        noise: |_, t| (70_000 + t).to_string(),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["1", "9999999", "-5", "70001.5"],
    },
    Family {
        kind: "localised text",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(format!("vor {} Minuten", rng.random_range(2..59))),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"3 minutes ago\"", "\"vor drei Minuten\"", "\"\""],
    },
    Family {
        kind: "localised text, one of few",
        media_type: JSON,
        template: ORDER,
        noise: |rng, _| quoted(["좋은 아침입니다", "안녕하세요", "환영합니다"][rng.random_range(0..3)]),
        path: "$.order.x",
        business: "$.order.city",
        broken: &["\"ì¢‹ì€ ì•„ì¹¨\"", "\"Good morning\""],
    },
    Family {
        kind: "now and then there",
        media_type: JSON,
        template: r#"{"city":"{B}"{N}}"#,
        noise: |rng, _| if rng.random_bool(0.5) { ",\"banner\":\"sale\"".into() } else { String::new() },
        path: "$.banner",
        business: "$.city",
        broken: &[",\"banner\":\"ERROR\""],
    },
    Family {
        kind: "uuid in a list",
        media_type: JSON,
        template: r#"{"city":"{B}","l":[{"n":1,"u":{N}},{"n":2,"u":"26fd2706-8baf-433b-82eb-8c7fada847da"}]}"#,
        noise: |rng, _| quoted(uuid(rng)),
        path: "$.l[].u",
        business: "$.city",
        broken: &["\"ERROR\"", "null"],
    },
    Family {
        kind: "SOAP message id",
        media_type: XML,
        template: r#"<s:Envelope xmlns:s="urn:s"><s:Header><id>{N}</id></s:Header><s:Body><city>{B}</city></s:Body></s:Envelope>"#,
        noise: |rng, _| uuid(rng),
        path: "/Envelope/Header/id",
        business: "/Envelope/Body/city",
        broken: &["none", ""],
    },
    Family {
        kind: "XML time attribute",
        media_type: XML,
        template: r#"<f at="{N}"><city>{B}</city></f>"#,
        noise: |_, t| moment(t).to_string(),
        path: "/f/@at",
        business: "/f/city",
        broken: &["", "2026-05-28"],
    },
    Family {
        kind: "HTML token of a form",
        media_type: HTML,
        template: r#"<form><input type="hidden" name="_csrf" value="{N}"><b>{B}</b></form>"#,
        noise: |rng, _| token(rng),
        path: "",
        business: "/html/body/form/b",
        broken: &[],
    },
    Family {
        kind: "HTML time in the footer",
        media_type: HTML,
        template: "<main>{B}</main><footer>{N}</footer>",
        noise: |_, t| format!("generated at {}", moment(t).strftime("%H:%M:%S")),
        path: "/html/body/footer",
        business: "/html/body/main",
        broken: &["error", "<b>generated</b>"],
    },
    Family {
        kind: "text with a time",
        media_type: TEXT,
        template: "report\n{N}\n{B}\n",
        noise: |_, t| moment(t).to_string(),
        path: "line 2",
        business: "line 3",
        broken: &["never", ""],
    },
    Family {
        kind: "form token",
        media_type: FORM,
        template: "city={B}&nonce={N}",
        noise: |rng, _| token(rng),
        path: "form.nonce",
        business: "form.city",
        broken: &["", "x"],
    },
];

/// The same in headers: the template is a header's value.
pub const IN_HEADERS: [(&str, Family); 3] = [
    (
        "location",
        Family {
            kind: "redirect to what was made",
            media_type: JSON,
            template: "/{B}/orders/{N}",
            noise: |rng, _| rng.random_range(1..99_999).to_string(),
            path: "header.location",
            business: "header.location",
            broken: &["ERROR", "", "7/edit", "../login"],
        },
    ),
    (
        "content-disposition",
        Family {
            kind: "a day in the name of a file",
            media_type: JSON,
            template: "attachment; filename=\"{B}-{N}.csv\"",
            noise: |rng, _| format!("2026{}", rng.random_range(1000..1231)),
            path: "header.content-disposition",
            business: "header.content-disposition",
            broken: &["report", ""],
        },
    ),
    (
        "content-security-policy",
        Family {
            kind: "nonce of a policy",
            media_type: HTML,
            template: "default-src 'self' {B}; script-src 'nonce-{N}'",
            noise: |rng, _| token(rng),
            path: "",
            business: "header.content-security-policy",
            broken: &[],
        },
    ),
];

impl Family {
    fn document(&self, noise: &str, business: &str) -> String {
        self.template.replace("{N}", noise).replace("{B}", business)
    }

    fn side(&self, header: Option<&str>, noise: &str, business: &str) -> Side {
        let text = self.document(noise, business);
        match header {
            Some(name) => Side::new(self.media_type, "").with(name, &text),
            None => Side::new(self.media_type, &text),
        }
    }

    pub fn pairs(&self, header: Option<&str>) -> Vec<Pair> {
        let mut rng = seeded(self.kind);
        let side = |noise: &str, business: &str| self.side(header, noise, business);
        let mut pairs = Vec::new();
        for turn in 0..NOISE_PAIRS {
            let (a, b) =
                ((self.noise)(&mut rng, 10_000 + turn * 60), (self.noise)(&mut rng, 10_001 + turn * 60));
            pairs.push(Pair::new(self.kind, None, side(&a, "Seoul"), side(&b, "Seoul")));
        }
        // What a client would miss, while the noise goes on.
        let cities = ["Busan", "seoul", "Seou", "Seoul!", "", "서울"];
        for city in cities.into_iter().filter(|_| !self.business.is_empty()) {
            let (a, b) = ((self.noise)(&mut rng, 20_000), (self.noise)(&mut rng, 20_001));
            pairs.push(Pair::new(self.kind, Some(self.business), side(&a, "Seoul"), side(&b, city)));
        }
        for broken in self.broken {
            let a = loop {
                let a = (self.noise)(&mut rng, 30_000);
                if a != *broken && !a.is_empty() {
                    break a;
                }
            };
            pairs.push(Pair::new(self.kind, Some(self.path), side(&a, "Seoul"), side(broken, "Seoul")));
        }
        pairs
    }

    /// What controls teach: legacy beside itself, a second later.
    pub fn rules(&self, header: Option<&str>, controls: u64) -> Rules {
        let mut rng = seeded(self.kind);
        let mut noise = Noise::default();
        for turn in 0..controls {
            let (a, b) = ((self.noise)(&mut rng, turn * 90), (self.noise)(&mut rng, turn * 90 + 1));
            let (a, b) = (self.side(header, &a, "Seoul"), self.side(header, &b, "Seoul"));
            match verdict(&Pair::new(self.kind, None, a, b), &Rules::default()) {
                Verdict::Mismatch(found) => noise.control(&found),
                Verdict::Match => noise.control(&[]),
                Verdict::Inconclusive(unknown) => panic!("{}: {unknown:?}", self.kind),
            }
        }
        noise.pinned(&Rules::default())
    }
}
