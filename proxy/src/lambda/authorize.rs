//! What a Lambda authorizer is asked, and what its answer allows.
//!
//! Input: a request; the answer's bytes. Output: the event in one of three forms; a verdict. Must not: allow what the answer does not clearly
//! allow.
//!
//! Source: AWS, "Use API Gateway Lambda authorizers" (REST APIs) and "Control access to HTTP APIs with AWS Lambda authorizers".

use super::event::EventRequest;
use super::{v1, v2};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The forms of the question, as AWS has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// HTTP APIs, format 2.0.
    #[default]
    V2,
    /// REST APIs, type REQUEST.
    V1,
    /// REST APIs, type TOKEN.
    Token,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestV2<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    route_arn: &'a str,
    identity_source: &'a [String],
    #[serde(flatten)]
    event: v2::Event<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestV1<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    method_arn: &'a str,
    #[serde(flatten)]
    event: v1::Event<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Token<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    authorization_token: &'a str,
    method_arn: &'a str,
}

/// The question about a request that is for `arn`, by somebody who says `identity`.
pub fn question(form: Form, request: &EventRequest<'_>, arn: &str, identity: &[String]) -> Vec<u8> {
    // Writing strings and maps to memory has no way to fail.
    let written = match form {
        Form::V2 => {
            let event = v2::Event::without_body(request);
            serde_json::to_vec(&RequestV2 {
                kind: "REQUEST",
                route_arn: arn,
                identity_source: identity,
                event,
            })
        }
        Form::V1 => {
            let event = v1::Event::without_body(request);
            serde_json::to_vec(&RequestV1 { kind: "REQUEST", method_arn: arn, event })
        }
        Form::Token => {
            let authorization_token = identity.first().map_or("", String::as_str);
            serde_json::to_vec(&Token { kind: "TOKEN", authorization_token, method_arn: arn })
        }
    };
    written.unwrap_or_default()
}

/// What the authorizer said.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Verdict(Verdict),
    /// It does not know who that is.
    Unauthorized,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    allows: Allows,
    pub principal: Option<String>,
    /// For the backend.
    pub context: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq)]
enum Allows {
    Simply(bool),
    Policy(Vec<Statement>),
}

#[derive(Clone, Debug, PartialEq)]
struct Statement {
    allow: bool,
    /// `None`: it holds what we cannot judge. It allows nothing then, and denies everything that it may mean.
    resources: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawAnswer {
    is_authorized: Option<bool>,
    principal_id: Option<Value>,
    policy_document: Option<RawPolicy>,
    context: Option<Map<String, Value>>,
    error_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPolicy {
    statement: Many<RawStatement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawStatement {
    effect: String,
    action: Option<Many<String>>,
    resource: Option<Many<String>>,
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Many<T> {
    All(Vec<T>),
    One(T),
}

impl<T> Many<T> {
    fn all(self) -> Vec<T> {
        match self {
            Many::All(all) => all,
            Many::One(one) => vec![one],
        }
    }
}

/// Reads an answer; an error is the authorizer's fault.
pub fn read(body: &[u8]) -> Result<Answer, String> {
    let raw: RawAnswer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if let Some(message) = raw.error_message {
        return if message == "Unauthorized" { Ok(Answer::Unauthorized) } else { Err(message) };
    }
    let allows = match (raw.is_authorized, raw.policy_document) {
        (Some(said), None) => Allows::Simply(said),
        (None, Some(policy)) => {
            let statements = policy.statement.all().into_iter().filter_map(statement);
            Allows::Policy(statements.collect::<Result<_, String>>()?)
        }
        _ => return Err("expected `isAuthorized` or `policyDocument`, and not both".into()),
    };
    let principal = raw.principal_id.and_then(|it| match it {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Ok(Answer::Verdict(Verdict { allows, principal, context: raw.context.unwrap_or_default() }))
}

/// `None`: it is about other actions than calling.
fn statement(raw: RawStatement) -> Option<Result<Statement, String>> {
    let allow = match raw.effect.as_str() {
        "Allow" => true,
        "Deny" => false,
        other => return Some(Err(format!("Effect `{other}`; expected `Allow` or `Deny`"))),
    };
    let calls = |action: &String| glob(&action.to_ascii_lowercase(), "execute-api:invoke");
    let (Some(actions), Some(resources)) = (raw.action, raw.resource) else {
        return Some(Ok(Statement { allow, resources: None }));
    };
    if !actions.all().iter().any(calls) {
        return None;
    }
    let resources = raw.more.is_empty().then(|| resources.all());
    Some(Ok(Statement { allow, resources }))
}

impl Verdict {
    /// Whether it allows a request for this resource; what is denied anywhere is denied.
    pub fn allows(&self, arn: impl FnOnce() -> String) -> bool {
        let statements = match &self.allows {
            Allows::Simply(said) => return *said,
            Allows::Policy(statements) => statements,
        };
        let arn = arn();
        let fits = |it: &&Statement| match &it.resources {
            Some(resources) => resources.iter().any(|pattern| glob(pattern, &arn)),
            None => !it.allow,
        };
        let mut meant = statements.iter().filter(fits).peekable();
        meant.peek().is_some() && meant.all(|it| it.allow)
    }
}

/// `*` is any text, `?` any one character.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // The last star, and how much of the text it has taken so far.
    let mut star = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => match star {
                Some((back, taken)) => {
                    star = Some((back, taken + 1));
                    (at, seen) = (back + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:execute-api:eu-central-1:123456789012:api/prod/GET/flights/LH1";

    fn verdict(text: &str) -> Verdict {
        let answer = read(text.as_bytes()).expect("an answer");
        let Answer::Verdict(verdict) = answer else { unreachable!("{answer:?}") };
        verdict
    }

    fn allows(statements: &str) -> bool {
        let text = format!(
            r#"{{"principalId":"u","policyDocument":{{"Version":"2012-10-17","Statement":{statements}}}}}"#
        );
        verdict(&text).allows(|| ARN.to_owned())
    }

    #[test]
    fn a_policy_allows_what_it_names_and_a_denial_beats_it() {
        let all = r#"{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"arn:aws:execute-api:*:*:*/prod/GET/*"}"#;
        assert!(allows(all));
        for (statements, expected) in [
            ("[]".to_owned(), false),
            (format!("[{all}]"), true),
            (
                format!(
                    r#"[{all},{{"Effect":"Deny","Action":["execute-api:*"],"Resource":["x","*/flights/LH?"]}}]"#
                ),
                false,
            ),
            (format!(r#"[{all},{{"Effect":"Deny","Action":"s3:Get","Resource":"*"}}]"#), true),
            // A condition is not judged: it keeps an allowance away, and a denial in force.
            (
                format!(r#"[{all},{{"Effect":"Deny","Action":"*","Resource":"nothing","Condition":{{}}}}]"#),
                false,
            ),
            (r#"{"Effect":"Allow","Action":"*","Resource":"*","Condition":{}}"#.to_owned(), false),
            (r#"{"Effect":"Allow","NotAction":"s3:Get","Resource":"*"}"#.to_owned(), false),
            (r#"{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"*/POST/*"}"#.to_owned(), false),
            (r#"{"Effect":"Allow","Action":"execute-api:Invoke","Resource":"*/LH?1"}"#.to_owned(), false),
        ] {
            assert_eq!(allows(&statements), expected, "{statements}");
        }
    }

    #[test]
    fn an_answer_is_one_of_two_shapes_or_a_fault() {
        let simple = |text: &str| read(text.as_bytes());
        let verdict = verdict(r#"{"isAuthorized":true,"context":{"team":"a"}}"#);
        assert!(verdict.allows(|| unreachable!("a simple verdict asks for nothing")));
        assert_eq!(verdict.context["team"], "a");
        assert_eq!(
            simple(r#"{"errorMessage":"Unauthorized","errorType":"Error"}"#),
            Ok(Answer::Unauthorized)
        );
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"isAuthorized":"yes"}"#,
            r#"{"errorMessage":"boom"}"#,
            r#"{"policyDocument":{"Statement":[{"Effect":"Perhaps"}]}}"#,
            r#"{"isAuthorized":true,"policyDocument":{"Statement":[]}}"#,
        ] {
            assert!(simple(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn globs_match_as_iam_has_them() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("**", "x", true),
            ("a", "ab", false),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
