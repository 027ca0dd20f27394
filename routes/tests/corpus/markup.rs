//! XML, pages and plain text, written in another way or changed in one place.
//!
//! Input: none. Output: pairs, each side of one document from a table of replacements. Must not: change two places at once.

use crate::{HTML, Pair, Side, TEXT, XML};

/// A document, ways to write a part of it that say the same, and ways that do not, with the path where that is told.
struct Document {
    media_type: &'static str,
    text: &'static str,
    same: &'static [(&'static str, &'static str, &'static str)],
    real: &'static [(&'static str, &'static str, &'static str, &'static str)],
}

const SOAP: &str = r#"<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:f="urn:fares"><s:Body><f:Quote carrier="KE" class="Y">
  <f:From>ICN</f:From><f:To>JFK</f:To><f:Note>Seat &amp; meal</f:Note><f:Empty/>
  <f:Leg no="1">081</f:Leg><f:Leg no="2">082</f:Leg><f:Total currency="KRW">1250000</f:Total></f:Quote></s:Body></s:Envelope>"#;

const FAULT: &str = r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>no such booking</faultstring><detail><code>17</code></detail></s:Fault></s:Body></s:Envelope>"#;

const PAGE: &str = r#"<!doctype html><html lang="ko"><head><title>Booking 17</title><link rel="stylesheet" href="/app.1234abcd.css"></head>
<body class="wide dark"><h1>Booking 17</h1><p>From <b>Seoul</b> to <i>New York</i>.</p>
<table><tr><td>KE081</td><td>12A</td></tr><tr><td>KE082</td><td>14C</td></tr></table>
<form action="/pay" method="post"><input type="hidden" name="amount" value="1250000"><input name="card" required>
<select name="class"><option value="Y" selected>Economy</option><option value="C">Business</option></select>
<input type="checkbox" name="wifi" checked><button disabled>Pay</button></form>
<a href="/booking/17/cancel">Cancel</a><img src="/seat.png" alt="seat"><script>book(17)</script></body></html>"#;

const LISTING: &str =
    "PNR      NAME      SEAT\nAB12CD   KIM       12A\nEF34GH   LEE       14C\n\nTOTAL    2\n";

const DOCUMENTS: [(&str, Document); 4] = [
    (
        "SOAP",
        Document {
            media_type: XML,
            text: SOAP,
            same: &[
                ("another prefix", "<f:To>JFK</f:To>", "<fare:To xmlns:fare=\"urn:fares\">JFK</fare:To>"),
                ("no prefix", "<f:Empty/>", "<Empty xmlns=\"urn:fares\"/>"),
                ("order of attributes", r#"carrier="KE" class="Y""#, r#"class="Y" carrier="KE""#),
                ("quotes", r#"carrier="KE""#, "carrier='KE'"),
                ("CDATA", "Seat &amp; meal", "<![CDATA[Seat & meal]]>"),
                ("letters by number", "ICN", "&#73;C&#x4E;"),
                ("an empty element", "<f:Empty/>", "<f:Empty></f:Empty>"),
                ("space between elements", "\n  ", ""),
                ("a comment", "<f:To>", "<!-- to --><f:To>"),
                (
                    "a declaration",
                    "<?xml version=\"1.0\"?>",
                    "<?xml version='1.0' encoding='UTF-8' standalone='yes'?>",
                ),
                ("a namespace that nobody uses", "xmlns:f=", "xmlns:z=\"urn:z\" xmlns:f="),
            ],
            real: &[
                ("text", "/Envelope/Body/Quote/To", "JFK", "LAX"),
                ("case", "/Envelope/Body/Quote/To", "JFK", "jfk"),
                ("an attribute", "/Envelope/Body/Quote/@class", r#"class="Y""#, r#"class="C""#),
                (
                    "an attribute that is gone",
                    "/Envelope/Body/Quote/Total/@currency",
                    r#" currency="KRW""#,
                    "",
                ),
                ("an element that is gone", "/Envelope/Body/Quote/To", "<f:To>JFK</f:To>", ""),
                ("an element more", "/Envelope/Body/Quote/Via", "<f:To>", "<f:Via>NRT</f:Via><f:To>"),
                ("an element with another name", "/Envelope/Body/Quote", "f:Note>", "f:Remark>"),
                ("one of a list", "/Envelope/Body/Quote/Leg", "<f:Leg no=\"2\">082</f:Leg>", ""),
                (
                    "a list in another order",
                    "/Envelope/Body/Quote",
                    "<f:Leg no=\"1\">081</f:Leg><f:Leg no=\"2\">082</f:Leg>",
                    "<f:Leg no=\"2\">082</f:Leg><f:Leg no=\"1\">081</f:Leg>",
                ),
                ("a digit", "/Envelope/Body/Quote/Total", "1250000", "1250001"),
                ("a number written otherwise", "/Envelope/Body/Quote/Total", "1250000", "1250000.00"),
                ("zeros before a number", "/Envelope/Body/Quote/Leg", "081", "81"),
                ("another namespace", "/Envelope/Body/Quote", "urn:fares", "urn:fares:2"),
                ("what was empty", "/Envelope/Body/Quote/Empty", "<f:Empty/>", "<f:Empty>x</f:Empty>"),
                ("an escape twice", "/Envelope/Body/Quote/Note", "&amp;", "&amp;amp;"),
                (
                    "a fault",
                    "/Envelope/Body",
                    "<f:Quote carrier=\"KE\" class=\"Y\">",
                    "<s:Fault/><f:Quote carrier=\"KE\" class=\"Y\">",
                ),
                ("a processing instruction", "/Envelope/Body/Quote/?x", "<f:From>", "<?x y?><f:From>"),
                (
                    "a style sheet",
                    "/Envelope/?before",
                    "<s:Envelope",
                    "<?xml-stylesheet href='a.xsl'?><s:Envelope",
                ),
                ("the end", "", "</s:Body></s:Envelope>", ""),
            ],
        },
    ),
    (
        "SOAP fault",
        Document {
            media_type: XML,
            text: FAULT,
            same: &[("prefix of the envelope", "xmlns:s=", "xmlns:z=\"urn:z\" xmlns:s=")],
            real: &[
                ("code", "/Envelope/Body/Fault/faultcode", "s:Client", "s:Server"),
                ("words", "/Envelope/Body/Fault/faultstring", "no such booking", "not found"),
                ("detail", "/Envelope/Body/Fault/detail/code", "17", "18"),
                ("no detail", "/Envelope/Body/Fault/detail", "<detail><code>17</code></detail>", ""),
            ],
        },
    ),
    (
        "page",
        Document {
            media_type: HTML,
            text: PAGE,
            same: &[
                ("case of tags", "<h1>Booking 17</h1>", "<H1>Booking 17</H1>"),
                ("quotes", r#"name="card""#, "name=card"),
                ("order of attributes", r#"action="/pay" method="post""#, r#"method="post" action="/pay""#),
                ("order of classes", "wide dark", "dark  wide"),
                ("tags that may be left out", "</td><td>12A</td></tr>", "<td>12A"),
                ("space between blocks", "\n<table>", "<table>"),
                ("a line break in running text", "From <b>", "From\n<b>"),
                ("a comment", "<table>", "<!-- legs --><table>"),
                ("letters by name", "New York", "New&#32;York"),
                ("the hash of a style", "app.1234abcd", "app.99ffabcd"),
                ("the value of a word", " required", " required=\"\""),
            ],
            real: &[
                ("title", "/html/head/title", "<title>Booking 17", "<title>Booking 18"),
                ("heading", "/html/body/h1", "<h1>Booking 17", "<h1>Booking 18"),
                ("a word in bold", "/html/body/p/b", "Seoul", "Busan"),
                ("emphasis", "/html/body/p", "<b>Seoul</b>", "Seoul"),
                ("a full stop", "/html/body/p", "</i>.", "</i>!"),
                ("space between words", "/html/body/p", "</b> to", "</b>to"),
                ("a cell", "/html/body/table/tbody/tr", "14C", "14D"),
                ("a row", "/html/body/table/tbody/tr", "<tr><td>KE082</td><td>14C</td></tr>", ""),
                ("where a form goes", "/html/body/form/@action", "/pay", "/pay2"),
                ("how a form goes", "/html/body/form/@method", "post", "get"),
                ("a hidden amount", "/html/body/form/input", "1250000", "125000"),
                ("a field that must be filled", "/html/body/form/input", " required", ""),
                ("what is chosen", "/html/body/form/select/option", " selected", ""),
                ("what is ticked", "/html/body/form/input", " checked", ""),
                ("what is disabled", "/html/body/form/button/@disabled", " disabled", ""),
                ("an option", "/html/body/form/select/option", "<option value=\"C\">Business</option>", ""),
                ("a link", "/html/body/a/@href", "/booking/17/cancel", "/booking/18/cancel"),
                ("a picture", "/html/body/img/@src", "/seat.png", "/plan.png"),
                ("its words", "/html/body/img/@alt", "alt=\"seat\"", "alt=\"\""),
                ("a script", "/html/body/script", "book(17)", "book(18)"),
                ("language", "/html/@lang", "\"ko\"", "\"en\""),
                (
                    "a style that is gone",
                    "/html/head/link",
                    "<link rel=\"stylesheet\" href=\"/app.1234abcd.css\">",
                    "",
                ),
                ("an error for a page", "/html/body", "<h1>Booking 17</h1>", "<h1>Error</h1>"),
            ],
        },
    ),
    (
        "text",
        Document {
            media_type: TEXT,
            text: LISTING,
            same: &[("ends of lines", "\n", "\r\n"), ("the last end", "2\n", "2")],
            real: &[
                ("a word", "line 2", "KIM", "PARK"),
                ("a column", "line 2", "   KIM", "    KIM"),
                ("a line that is gone", "line 3", "EF34GH   LEE       14C\n", ""),
                ("a line more", "line 4", "14C\n", "14C\nIJ56KL   CHO       15D\n"),
                ("an empty line", "line 4", "\n\n", "\n"),
                ("a total", "line 5", "TOTAL    2", "TOTAL    3"),
                (
                    "two lines changed about",
                    "line ",
                    "AB12CD   KIM       12A\nEF34GH   LEE       14C",
                    "EF34GH   LEE       14C\nAB12CD   KIM       12A",
                ),
                ("letters", "line 1", "SEAT", "seat"),
            ],
        },
    ),
];

pub fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for (name, document) in &DOCUMENTS {
        let Document { media_type, text, same, real } = document;
        let with = |from: &str, to: &str| {
            let other = text.replace(from, to);
            assert_ne!(*text, other, "{from}");
            Side::new(media_type, &other)
        };
        let whole = || Side::new(media_type, text);
        for (what, from, to) in *same {
            pairs.push(Pair::new(&format!("{name}: {what}"), None, whole(), with(from, to)));
        }
        for (what, path, from, to) in *real {
            let kind = format!("{name}, differs: {what}");
            pairs.push(Pair::new(&kind, Some(path), whole(), with(from, to)));
            // Seen from the other side.
            pairs.push(Pair::new(&kind, Some(""), with(from, to), whole()));
        }
    }
    pairs
}
