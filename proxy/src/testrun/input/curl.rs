//! Lists of curl commands, as browsers copy them.
//!
//! Input: text as a POSIX shell or bash reads it. Output: requests. Must not: run anything, read a file that a command names, or ask for something else
//! than the command would: what is not known here is an error.

use crate::testrun::record::Recorded;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Options that change nothing of what is asked for.
const FLAGS: [&str; 27] = [
    "--compressed",
    "--fail",
    "--fail-with-body",
    "--globoff",
    "--http1.1",
    "--http2",
    "--include",
    "--insecure",
    "--location",
    "--no-buffer",
    "--no-keepalive",
    "--path-as-is",
    "--progress-bar",
    "--show-error",
    "--silent",
    "--tlsv1.2",
    "--tlsv1.3",
    "--verbose",
    "-#",
    "-N",
    "-S",
    "-f",
    "-g",
    "-i",
    "-k",
    "-L",
    "-v",
];
/// The same with a value.
const VALUED: [&str; 19] = [
    "--cacert",
    "--cert",
    "--connect-timeout",
    "--connect-to",
    "--interface",
    "--key",
    "--max-redirs",
    "--max-time",
    "--output",
    "--proxy",
    "--resolve",
    "--retry",
    "--retry-delay",
    "--write-out",
    "-E",
    "-m",
    "-o",
    "-w",
    "-x",
];

pub fn read(text: &str) -> Result<Vec<Recorded>, String> {
    let commands = commands(text)?;
    let one =
        |(line, words): (usize, Vec<String>)| one(words).map_err(|error| format!("line {line}: {error}"));
    commands.into_iter().map(one).collect()
}

#[derive(Default)]
struct Command {
    url: Option<String>,
    method: Option<String>,
    headers: Vec<String>,
    data: Vec<String>,
    json: bool,
    /// The data is the query.
    get: bool,
    head: bool,
}

fn one(words: Vec<String>) -> Result<Recorded, String> {
    let mut words = words.into_iter();
    let first = words.next().unwrap_or_default();
    if first != "curl" {
        return Err(format!("`{first}` is not a curl command"));
    }
    let mut command = Command::default();
    let mut queue: Vec<String> = words.rev().collect();
    while let Some(word) = queue.pop() {
        // `--name=value`, `-XPOST` and `-sS` are written in one.
        if let Some((name, value)) = word.strip_prefix("--").and_then(|it| it.split_once('=')) {
            queue.push(value.to_owned());
            command.option(&format!("--{name}"), &mut queue)?;
        } else if word.starts_with('-') && !word.starts_with("--") && word.chars().count() > 2 {
            let short: String = word.chars().take(2).collect();
            let rest = &word[short.len()..];
            if FLAGS.contains(&short.as_str()) || matches!(short.as_str(), "-s" | "-G" | "-I") {
                queue.push(format!("-{rest}"));
            } else {
                queue.push(rest.to_owned());
            }
            command.option(&short, &mut queue)?;
        } else if word.starts_with('-') && word.len() > 1 {
            command.option(&word, &mut queue)?;
        } else if let Some(before) = command.url.replace(word) {
            return Err(format!("two URLs, of which `{before}` is the first; expected a command for each"));
        }
    }
    command.request()
}

impl Command {
    fn option(&mut self, name: &str, rest: &mut Vec<String>) -> Result<(), String> {
        let mut value = || rest.pop().ok_or_else(|| format!("`{name}` has no value"));
        match name {
            "-X" | "--request" => self.method = Some(value()?),
            "-H" | "--header" => self.headers.push(value()?),
            "-b" | "--cookie" => self.headers.push(format!("cookie: {}", value()?)),
            "-A" | "--user-agent" => self.headers.push(format!("user-agent: {}", value()?)),
            "-e" | "--referer" => self.headers.push(format!("referer: {}", value()?)),
            "-u" | "--user" => {
                self.headers.push(format!("authorization: Basic {}", STANDARD.encode(value()?)));
            }
            "-d" | "--data" | "--data-binary" | "--data-ascii" | "--json" => {
                let data = value()?;
                if data.starts_with('@') {
                    return Err(format!("`{name} {data}` reads a file; give its contents"));
                }
                self.json |= name == "--json";
                self.data.push(data);
            }
            "--data-raw" => {
                let data = value()?;
                self.data.push(data);
            }
            "--data-urlencode" => {
                let data = value()?;
                let coded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                self.data.push(match data.split_once('=') {
                    Some(("", text)) => coded(text),
                    Some((name, text)) => format!("{name}={}", coded(text)),
                    None if data.contains('@') => {
                        return Err(format!("`{name} {data}` reads a file; give its contents"));
                    }
                    None => coded(&data),
                });
            }
            "-G" | "--get" => self.get = true,
            "-I" | "--head" => self.head = true,
            "--url" => self.url = Some(value()?),
            "-s" => {}
            it if FLAGS.contains(&it) => {}
            it if VALUED.contains(&it) => drop(value()?),
            it => {
                return Err(format!(
                    "`{it}` is not understood here; leave it out if it changes nothing of the request"
                ));
            }
        }
        Ok(())
    }

    fn request(self) -> Result<Recorded, String> {
        let url = self.url.ok_or("there is no URL")?;
        let mut url = if url.contains("://") || url.starts_with('/') { url } else { format!("http://{url}") };
        let mut body = self.data.join(if self.json { "" } else { "&" });
        let sends = !self.data.is_empty() && !self.get;
        if self.get && !body.is_empty() {
            let bare = url.split('#').next().unwrap_or_default();
            url = format!("{bare}{}{body}", if bare.contains('?') { '&' } else { '?' });
            body.clear();
        }
        let usual = if self.head {
            "HEAD"
        } else if sends {
            "POST"
        } else {
            "GET"
        };
        let mut recorded = Recorded::new(self.method.as_deref().unwrap_or(usual), &url)?;
        for header in &self.headers {
            if let Some((name, value)) = header.split_once(':') {
                recorded.header(name.trim(), value.trim());
            }
        }
        let kind = if self.json { "application/json" } else { "application/x-www-form-urlencoded" };
        if sends && !recorded.headers.contains_key("content-type") {
            recorded.header("content-type", kind);
        }
        if self.json && !recorded.headers.contains_key("accept") {
            recorded.header("accept", kind);
        }
        recorded.session = recorded.headers.get("cookie").and_then(|it| it.to_str().ok()).map(str::to_owned);
        recorded.body = Bytes::from(body);
        Ok(recorded)
    }
}

/// The words of each command, and the line it begins on. Quotes may hold ends of lines; `$'...'` is bash's.
fn commands(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let mut all = Vec::new();
    let (mut words, mut word): (Vec<String>, Option<String>) = (Vec::new(), None);
    let (mut line, mut start) = (1, 1);
    let mut letters = text.chars().peekable();
    loop {
        let letter = letters.next();
        match letter {
            None | Some('\n' | ';') => {
                words.extend(word.take());
                if !words.is_empty() {
                    all.push((start, std::mem::take(&mut words)));
                }
                line += usize::from(letter == Some('\n'));
                start = line;
                if letter.is_none() {
                    return Ok(all);
                }
            }
            Some('#') if word.is_none() => while letters.next_if(|it| *it != '\n').is_some() {},
            Some(it) if it.is_whitespace() => words.extend(word.take()),
            Some('\\') => match letters.next() {
                Some('\n') => line += 1,
                Some('\r') if letters.next_if_eq(&'\n').is_some() => line += 1,
                Some(it) => word.get_or_insert_default().push(it),
                None => {}
            },
            Some(quote @ ('\'' | '"')) => {
                let opened = line;
                let bash = quote == '\'' && word.as_ref().is_some_and(|it| it.ends_with('$'));
                let into = word.get_or_insert_default();
                if bash {
                    into.pop();
                }
                loop {
                    let Some(it) = letters.next() else {
                        return Err(format!("line {opened}: a quote is not closed"));
                    };
                    line += usize::from(it == '\n');
                    match it {
                        it if it == quote => break,
                        '\\' if bash => into.extend(escape(&mut letters)),
                        '\\' if quote == '"' => match letters.next() {
                            Some('\n') => line += 1,
                            Some(it) if "\"\\$`".contains(it) => into.push(it),
                            Some(it) => into.extend(['\\', it]),
                            None => {}
                        },
                        it => into.push(it),
                    }
                }
            }
            Some(it) => word.get_or_insert_default().push(it),
        }
    }
}

/// What a backslash stands for inside `$'...'`.
fn escape(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match letters.next()? {
        'n' => Some('\n'),
        't' => Some('\t'),
        'r' => Some('\r'),
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'e' | 'E' => Some('\u{1b}'),
        'f' => Some('\u{c}'),
        'v' => Some('\u{b}'),
        'x' => char::from_u32(number(letters, 16, 2, 0)),
        'u' => utf16(letters),
        'U' => char::from_u32(number(letters, 16, 8, 0)),
        it if it.is_digit(8) => char::from_u32(number(letters, 8, 2, it.to_digit(8).unwrap_or(0))),
        it => Some(it),
    }
}

fn number(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    radix: u32,
    most: usize,
    first: u32,
) -> u32 {
    let mut value = first;
    for _ in 0..most {
        let Some(digit) = letters.peek().and_then(|it| it.to_digit(radix)) else { break };
        value = value.wrapping_mul(radix).wrapping_add(digit);
        letters.next();
    }
    value
}

/// A letter beyond the first 65,536 is two of these, as in JavaScript.
fn utf16(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    let high = number(letters, 16, 4, 0);
    let mut ahead = letters.clone();
    if (0xd800..0xdc00).contains(&high) && ahead.next() == Some('\\') && ahead.next() == Some('u') {
        let low = number(&mut ahead, 16, 4, 0);
        *letters = ahead;
        return char::decode_utf16([high as u16, low as u16]).next()?.ok();
    }
    char::from_u32(high)
}
