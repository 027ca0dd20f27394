//! Lists of curl commands, as browsers copy them.
//!
//! Input: text; a command may go on over lines that end in a backslash. Output: requests. Must not: run anything, or read a file that
//! a command names.

use crate::testrun::record::Recorded;
use bytes::Bytes;

pub fn read(text: &str) -> Result<Vec<Recorded>, String> {
    let mut requests = Vec::new();
    let (mut command, mut start) = (String::new(), 1);
    for (number, line) in text.lines().enumerate() {
        if command.is_empty() {
            start = number + 1;
        }
        if let Some(more) = line.trim_end().strip_suffix('\\') {
            command.push_str(more);
            command.push(' ');
            continue;
        }
        command.push_str(line);
        let whole = std::mem::take(&mut command);
        if !whole.trim().is_empty() && !whole.trim_start().starts_with('#') {
            requests.push(one(&whole).map_err(|error| format!("line {start}: {error}"))?);
        }
    }
    Ok(requests)
}

fn one(command: &str) -> Result<Recorded, String> {
    let words = shlex::split(command).ok_or("a quote is not closed")?;
    let mut words = words.into_iter();
    if words.next().as_deref() != Some("curl") {
        return Err(format!("`{}` is not a curl command", command.trim()));
    }
    let (mut url, mut method, mut headers, mut body) = (None, None, Vec::new(), Vec::new());
    let mut form = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("`{word}` has no value"));
        match word.as_str() {
            "-X" | "--request" => method = Some(value()?),
            "-H" | "--header" => headers.push(value()?),
            "-b" | "--cookie" => headers.push(format!("cookie: {}", value()?)),
            "-A" | "--user-agent" => headers.push(format!("user-agent: {}", value()?)),
            "-e" | "--referer" => headers.push(format!("referer: {}", value()?)),
            "-d" | "--data" | "--data-raw" | "--data-binary" | "--data-ascii" => {
                let data = value()?;
                if data.starts_with('@') && word != "--data-raw" {
                    return Err(format!("`{word} {data}` reads a file; give its contents"));
                }
                form = true;
                body.push(data);
            }
            "-I" | "--head" => method = Some("HEAD".into()),
            "-u" | "--user" | "-o" | "--output" | "-m" | "--max-time" | "--connect-timeout" | "--resolve"
            | "-w" => drop(value()?),
            "--url" => url = Some(value()?),
            it if it.starts_with('-') => {}
            _ => url = Some(word),
        }
    }
    let method = method.unwrap_or_else(|| if form { "POST".into() } else { "GET".into() });
    let url = url.ok_or("there is no URL")?;
    let url = if url.contains("://") || url.starts_with('/') { url } else { format!("http://{url}") };
    let mut recorded = Recorded::new(&method, &url)?;
    for header in &headers {
        if let Some((name, value)) = header.split_once(':') {
            recorded.header(name.trim(), value.trim());
        }
    }
    if form && !recorded.headers.contains_key("content-type") {
        recorded.header("content-type", "application/x-www-form-urlencoded");
    }
    recorded.session = recorded.headers.get("cookie").and_then(|it| it.to_str().ok()).map(str::to_owned);
    recorded.body = Bytes::from(body.join("&"));
    Ok(recorded)
}
