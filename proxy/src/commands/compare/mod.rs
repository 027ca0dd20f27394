//! `banyan compare`: test runs over recorded requests, and their reports.
//!
//! Input: files, targets, rules. Output: a verdict as exit code, a table on stdout, reports as files. Must not: send anything on a dry
//! run, or write a value that was not asked for.

mod flags;

use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use crate::testrun::input::{self, Format, Input};
use crate::testrun::play::{Plan, Played};
use crate::testrun::record::Recorded;
use crate::testrun::report::{html, junit, markdown, text};
use crate::testrun::score::{self, Claim, InputFacts, Report, Terms, baseline, beside, score};
use crate::testrun::target::Target;
use banyan_routes::compare::rules::Rules;
use banyan_routes::ids::{PPM, Side};
use banyan_routes::noise::Noise;
use banyan_routes::redact::Redactor;
pub use flags::Compare;
use flags::{Outputs, Run, Shape, TermFlags, Values};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What went wrong, and the exit code that says so.
pub struct Stop(Exit, String);

impl Stop {
    fn usage(text: impl Into<String>) -> Stop {
        Stop(Exit::Usage, text.into())
    }
}

pub fn run(command: Compare) -> Exit {
    let done = match command {
        Compare::Run(flags) => play(*flags),
        Compare::Show { file, output } => show(&file, output),
        Compare::Rescore { file, terms, out } => rescore(&file, &terms, &out),
        Compare::Report { file, out } => read_report(&file).and_then(|report| {
            // A report holds what it was written with; its values can neither be brought back nor taken out here.
            if out.values.is_some() {
                let text = format!(
                    "the values of this report are {}; `--values` belongs to `run` and `rescore`",
                    report.values
                );
                return Err(Stop::usage(text));
            }
            write(&report, &out)?;
            print(&report, out.output);
            Ok(Exit::Ok)
        }),
    };
    done.unwrap_or_else(|Stop(exit, text)| {
        if !text.is_empty() {
            eprintln!("banyan: {text}");
        }
        exit
    })
}

fn play(flags: Run) -> Result<Exit, Stop> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut rules = flags.terms.compile()?;
    let mut input = input::read(&flags.input, flags.format).map_err(Stop::usage)?;
    only_hosts(&mut input, &flags.only_host);
    input.requests.truncate(flags.limit.unwrap_or(usize::MAX));
    let target = |side: Side, url: &Option<String>| {
        let new = |url: &String| {
            Target::new(side, url, flags.host.as_deref(), flags.timeout.0, flags.max_body.0 as usize)
        };
        url.as_ref().map(new).transpose()
    };
    // A name that cannot be found is a target that cannot be reached; a URL that is none is a mistake.
    let found = |result: Result<Option<Target>, String>| {
        result.map_err(|text| {
            if text.contains("is not a URL") || text.contains("is not a port") {
                Stop::usage(text)
            } else {
                Stop(Exit::Unreachable, text)
            }
        })
    };
    let legacy = found(target(Side::Legacy, &flags.legacy))?;
    let serverless = found(target(Side::Serverless, &flags.serverless))?;
    for target in [&legacy, &serverless].into_iter().flatten() {
        rules.own(&target.authority);
    }
    flags.host.iter().for_each(|host| rules.own(host));
    // As large as a number may be that every reader of JSON reads as it stands.
    let seed = flags.seed.unwrap_or_else(|| rand::random::<u64>() >> 11);
    let plan = Arc::new(Plan {
        legacy,
        serverless,
        pace: flags.pace,
        concurrency: usize::from(flags.concurrency),
        sandboxes: flags.sandbox.clone(),
        allow_unsafe: flags.allow_unsafe,
    });
    if flags.timeout.0.is_zero() {
        return Err(Stop::usage("`--timeout` is 0s; expected some time to answer in"));
    }
    if flags.baseline.is_some() && plan.legacy.is_none() {
        return Err(Stop::usage("`--baseline` asks legacy twice; expected `--legacy URL`"));
    }
    if input.format == Format::AccessLog {
        eprintln!("banyan: an access log holds no bodies: only its GET and HEAD requests are asked");
    }
    if flags.dry_run {
        return Ok(dry_run(&plan, &input, flags.out.output));
    }
    // Before anything is sent: a run whose verdict cannot be written would have to be done again.
    let outputs = [&flags.out.json, &flags.out.junit, &flags.out.markdown, &flags.out.html, &flags.save];
    outputs.into_iter().flatten().try_for_each(|path| can_be_written(path))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Stop(Exit::Internal, error.to_string()))?;
    let mut noise = match flags.baseline {
        Some(count) => runtime.block_on(baseline(&plan, &input.requests, count, seed, &rules)),
        None => Noise::default(),
    };
    let bar = progress(input.requests.len() as u64);
    let step = bar.clone();
    let requests = std::mem::take(&mut input.requests);
    let facts = facts(&flags.input, &input, requests.len() as u64);
    let played = runtime.block_on(plan.clone().play(requests, Arc::new(move |done| step.set_position(done))));
    bar.finish_and_clear();
    if let Some(path) = &flags.save {
        save(path, &played)?;
    }
    beside(&mut noise, &played, &rules);
    let pinned = noise.pinned(&rules);
    let redactor = redactor(flags.seed);
    let terms = terms(&flags.terms, &flags.out, &pinned, &noise, &redactor);
    let mut report = score(&played, &terms);
    let named =
        |target: &Option<Target>| target.as_ref().map_or("as recorded".to_owned(), |it| it.url.clone());
    report.legacy = named(&plan.legacy);
    report.serverless = named(&plan.serverless);
    report.mode = match (&plan.legacy, &plan.serverless) {
        (Some(_), Some(_)) => "live-live",
        (None, None) => "recorded-recorded",
        _ => "recorded-live",
    }
    .into();
    report.input = facts;
    report.seed = seed;
    report.config_sha256 = flags.terms.digest(&report);
    finish(&report, &flags.out)
}

fn rescore(file: &Path, flags: &TermFlags, out: &Outputs) -> Result<Exit, Stop> {
    let rules = flags.compile()?;
    let mut input = input::read(file, Some(Format::Jsonl)).map_err(Stop::usage)?;
    let requests = std::mem::take(&mut input.requests);
    let facts = facts(file, &input, requests.len() as u64);
    let redactor = redactor(None);
    let noise = Noise::default();
    let mut report = score(&stored(requests), &terms(flags, out, &rules, &noise, &redactor));
    report.legacy = "as recorded".into();
    report.serverless = "as recorded".into();
    report.mode = "recorded-recorded".into();
    report.input = facts;
    report.config_sha256 = flags.digest(&report);
    finish(&report, out)
}

/// Exchanges that have all their answers, or never had them.
fn stored(requests: Vec<Recorded>) -> Played {
    let mut played = Played::default();
    for recorded in requests {
        if recorded.legacy.is_none() && recorded.serverless.is_none() && recorded.faults == [None; 2] {
            *played.skipped.entry("no recorded answer").or_default() += 1;
        } else {
            played.push(recorded);
        }
    }
    played
}

fn show(file: &Path, output: Shape) -> Result<Exit, Stop> {
    if let Ok(report) = read_report(file) {
        print(&report, output);
        return Ok(Exit::Ok);
    }
    let input = input::read(file, Some(Format::Jsonl))
        .map_err(|error| Stop::usage(format!("neither a report nor a saved run: {error}")))?;
    let flags = TermFlags::plain();
    let out = Outputs::plain(output);
    let (rules, noise, redactor) = (Rules::default(), Noise::default(), redactor(None));
    let mut input = input;
    let requests = std::mem::take(&mut input.requests);
    let facts = facts(file, &input, requests.len() as u64);
    let mut report = score(&stored(requests), &terms(&flags, &out, &rules, &noise, &redactor));
    report.input = facts;
    (report.legacy, report.serverless) = ("as recorded".into(), "as recorded".into());
    print(&report, output);
    Ok(Exit::Ok)
}

fn dry_run(plan: &Plan, input: &Input, output: Shape) -> Exit {
    let (mut asked, mut skipped): (Vec<String>, BTreeMap<&str, u64>) = Default::default();
    for recorded in &input.requests {
        match plan.skips(recorded) {
            Some(why) => *skipped.entry(why).or_default() += 1,
            None => asked.push(format!("{} {}", recorded.method, recorded.target)),
        }
    }
    match output {
        Shape::Json => {
            let value = serde_json::json!({ "version": 1, "would_ask": asked, "skipped": skipped, "left_out": input.left_out });
            say!("{value:#}");
        }
        Shape::Text => {
            asked.iter().for_each(|line| say!("{line}"));
            skipped.iter().chain(&input.left_out).for_each(|(why, count)| say!("# {count} left out: {why}"));
        }
    }
    Exit::Ok
}

fn facts(file: &Path, input: &Input, requests: u64) -> InputFacts {
    InputFacts {
        file: file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        format: input.format.as_str().into(),
        sha256: input.digest.clone(),
        requests,
        left_out: input.left_out.iter().map(|(why, count)| ((*why).to_owned(), *count)).collect(),
    }
}

/// A browser's page asks many hosts, of which the targets are one: the others' requests are nothing to them.
fn only_hosts(input: &mut Input, only: &[String]) {
    if only.is_empty() {
        let hosts: BTreeSet<&str> =
            input.requests.iter().map(|it| &*it.host).filter(|host| !host.is_empty()).collect();
        if hosts.len() > 1 {
            let some: Vec<&str> = hosts.iter().copied().take(5).collect();
            eprintln!(
                "banyan: recorded of {} hosts ({}{}), and all of it is asked of the same targets; `--only-host NAME` keeps one",
                hosts.len(),
                some.join(", "),
                if hosts.len() > some.len() { ", ..." } else { "" }
            );
        }
        return;
    }
    let before = input.requests.len();
    let kept = |host: &str| host.is_empty() || only.iter().any(|name| name.eq_ignore_ascii_case(host));
    input.requests.retain(|it| kept(&it.host));
    let gone = (before - input.requests.len()) as u64;
    if gone > 0 {
        *input.left_out.entry("of another host").or_default() += gone;
    }
}

/// Nothing is changed by asking.
fn can_be_written(path: &Path) -> Result<(), Stop> {
    let open = |options: &mut std::fs::OpenOptions| options.open(path).map(drop);
    let asked = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => open(std::fs::OpenOptions::new().append(true)),
        // Links, pipes and devices are known by being written.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            open(std::fs::OpenOptions::new().write(true).create_new(true))
                .and_then(|()| std::fs::remove_file(path))
        }
        Err(error) => Err(error),
    };
    asked.map_err(|error| Stop::usage(format!("{}: {error}", path.display())))
}

/// By the seed where one is given, so that two runs say the same; such pseudonyms can be guessed by who knows it.
fn redactor(seed: Option<u64>) -> Redactor {
    match seed {
        Some(seed) => Redactor::new(Sha256::digest(format!("banyan compare {seed}")).into()),
        None => Redactor::new(rand::random()),
    }
}

fn terms<'a>(
    flags: &TermFlags,
    out: &Outputs,
    rules: &'a Rules,
    noise: &'a Noise,
    redactor: &'a Redactor,
) -> Terms<'a> {
    let claim = Claim {
        allowed: f64::from(PPM - flags.parity.matching.0.get()) / f64::from(PPM),
        confidence: flags.parity.confidence.0.ratio(),
        coverage_floor: flags.coverage.0.ratio(),
    };
    Terms { rules, noise, claim, redactor, raw_values: out.values == Some(Values::Raw) }
}

fn finish(report: &Report, out: &Outputs) -> Result<Exit, Stop> {
    write(report, out)?;
    print(report, out.output);
    Ok(match report.verdict {
        score::RunVerdict::Pass => Exit::Ok,
        score::RunVerdict::Regression => Exit::No,
        score::RunVerdict::NotEnoughEvidence => Exit::CannotTell,
        score::RunVerdict::Inconclusive => Exit::Unreachable,
    })
}

fn print(report: &Report, output: Shape) {
    match output {
        Shape::Json => say!("{}", serde_json::to_string_pretty(report).unwrap_or_default()),
        Shape::Text => say_raw!("{}", text::write(report)),
    }
}

fn write(report: &Report, out: &Outputs) -> Result<(), Stop> {
    let json = || serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
    let files: [(&Option<PathBuf>, &dyn Fn() -> String); 4] = [
        (&out.json, &json),
        (&out.junit, &|| junit::write(report)),
        (&out.markdown, &|| markdown::write(report)),
        (&out.html, &|| html::write(report)),
    ];
    for (path, text) in files {
        if let Some(path) = path {
            std::fs::write(path, text())
                .map_err(|error| Stop::usage(format!("{}: {error}", path.display())))?;
        }
    }
    Ok(())
}

fn read_report(file: &Path) -> Result<Report, Stop> {
    let text =
        std::fs::read_to_string(file).map_err(|error| Stop::usage(format!("{}: {error}", file.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Stop::usage(format!("{}: not a report: {error}", file.display())))
}

fn save(path: &Path, played: &Played) -> Result<(), Stop> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> std::io::Result<()> {
        let file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut file = std::io::BufWriter::new(file);
        for recorded in &played.exchanges {
            writeln!(file, "{}", recorded.line())?;
        }
        file.flush()
    };
    write().map_err(|error| Stop::usage(format!("{}: {error}", path.display())))
}

/// On a terminal only.
fn progress(length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len}  {per_sec}  {eta} left") {
        bar.set_style(style);
    }
    bar
}
