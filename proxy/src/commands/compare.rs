//! `banyan compare`: test runs over recorded requests, and their reports.
//!
//! Input: files, targets, rules. Output: a verdict as exit code, a table on stdout, reports as files. Must not: send anything on a dry
//! run, or write a value that was not asked for.

use crate::commands::check::load_or_report;
use crate::exit::Exit;
use crate::say;
use crate::say_raw;
use crate::testrun::input::{self, Format, Input};
use crate::testrun::play::{Pace, Plan, Played};
use crate::testrun::record::Recorded;
use crate::testrun::report::{html, junit, markdown, text};
use crate::testrun::score::{self, Claim, InputFacts, Report, Terms, baseline, score};
use crate::testrun::target::Target;
use banyan_routes::compare::rules::Rules;
use banyan_routes::ids::{PPM, Side};
use banyan_routes::noise::Noise;
use banyan_routes::redact::Redactor;
use banyan_routes::terms::Parity;
use banyan_routes::units::{ByteSize, Percent, Span};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Subcommand)]
pub enum Compare {
    /// Ask both sides, or one, or none, and compare the answers.
    Run(Box<Run>),
    /// Show a report (JSON), or what a saved run (JSON lines) holds.
    Show {
        file: PathBuf,
        #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
        output: Shape,
    },
    /// Compare the answers of a saved run again, under other rules; nothing is sent.
    Rescore {
        /// What `run --save` has written.
        file: PathBuf,
        #[command(flatten)]
        terms: TermFlags,
        #[command(flatten)]
        out: Outputs,
    },
    /// A report (JSON) in other forms.
    Report {
        /// What `--json` has written.
        file: PathBuf,
        #[command(flatten)]
        out: Outputs,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Values {
    /// Their class, and a pseudonym.
    Redacted,
    /// As they came; personal data and secrets included.
    Raw,
}

#[derive(Args)]
pub struct Run {
    /// Recorded requests.
    #[arg(long = "in", env = "BANYAN_IN", value_name = "FILE")]
    input: PathBuf,
    /// By the file's name and start when not given.
    #[arg(long, env = "BANYAN_FORMAT", value_enum)]
    format: Option<Format>,
    /// Where legacy is asked; the recorded answers are taken when not given.
    #[arg(long, env = "BANYAN_LEGACY", value_name = "URL")]
    legacy: Option<String>,
    /// Where serverless is asked.
    #[arg(long, env = "BANYAN_SERVERLESS", value_name = "URL")]
    serverless: Option<String>,
    /// The Host to send to both; each target's own when not given.
    #[arg(long, env = "BANYAN_HOST", value_name = "NAME")]
    host: Option<String>,
    /// `max`, `100/s`, `original` or `original*0.5`.
    #[arg(long, env = "BANYAN_PACE", default_value = "max")]
    pace: Pace,
    /// Requests under way at one time.
    #[arg(long, env = "BANYAN_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// For one answer of one side.
    #[arg(long, env = "BANYAN_TIMEOUT", default_value = "10s")]
    timeout: Span,
    /// Of an answer; what is longer cannot be compared.
    #[arg(long, env = "BANYAN_MAX_BODY", default_value = "4MiB")]
    max_body: ByteSize,
    /// Only the first so many.
    #[arg(long, env = "BANYAN_LIMIT")]
    limit: Option<usize>,
    /// Ask legacy twice, so many times, first; what it differs in from itself is noise. 30 are the least that teach anything.
    #[arg(long, env = "BANYAN_BASELINE", value_name = "N", num_args = 0..=1, default_missing_value = "100")]
    baseline: Option<usize>,
    /// Also send what is not safe, to targets that are declared sandboxes.
    #[arg(long, env = "BANYAN_ALLOW_UNSAFE")]
    allow_unsafe: bool,
    /// A `host:port` whose data may be changed; repeat for several.
    #[arg(long, env = "BANYAN_SANDBOX", value_name = "HOST", value_delimiter = ',')]
    sandbox: Vec<String>,
    /// Order of the baseline and pseudonyms; by chance when not given, and then told.
    #[arg(long, env = "BANYAN_SEED")]
    seed: Option<u64>,
    /// Say what would be sent, and send nothing.
    #[arg(long, env = "BANYAN_DRY_RUN")]
    dry_run: bool,
    /// Requests and answers as they came, to be compared again by `rescore`. It holds what the input and the answers hold: keep it like them.
    #[arg(long, env = "BANYAN_SAVE", value_name = "FILE")]
    save: Option<PathBuf>,
    #[command(flatten)]
    terms: TermFlags,
    #[command(flatten)]
    out: Outputs,
}

#[derive(Args)]
pub struct TermFlags {
    /// Rules of a directory; with `--route`, what that route's `shadow` says about comparing.
    #[arg(long, env = "BANYAN_RULES", value_name = "DIR", requires = "route")]
    rules: Option<PathBuf>,
    #[arg(long, env = "BANYAN_ROUTE", value_name = "ID", requires = "rules")]
    route: Option<String>,
    /// Leave out `header.NAME` or `json:$.path`; repeat for several.
    #[arg(long, env = "BANYAN_IGNORE", value_name = "PATH")]
    ignore: Vec<String>,
    /// What has to be shown.
    #[arg(long, env = "BANYAN_PARITY", default_value = "99% at 95%")]
    parity: Parity,
    /// The part of the requests asked that has to be compared.
    #[arg(long, env = "BANYAN_COVERAGE", default_value = "90%")]
    coverage: Percent,
}

#[derive(Args)]
pub struct Outputs {
    #[arg(long, env = "BANYAN_JSON", value_name = "FILE")]
    json: Option<PathBuf>,
    #[arg(long, env = "BANYAN_JUNIT", value_name = "FILE")]
    junit: Option<PathBuf>,
    #[arg(long, env = "BANYAN_MARKDOWN", value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// One page that works from the disk.
    #[arg(long, env = "BANYAN_HTML", value_name = "FILE")]
    html: Option<PathBuf>,
    /// What reports show of values.
    #[arg(long, env = "BANYAN_VALUES", value_enum, default_value = "redacted")]
    values: Values,
    #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
    output: Shape,
}

/// What went wrong, and the exit code that says so.
struct Stop(Exit, String);

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
    let rules = flags.terms.compile()?;
    let mut input = input::read(&flags.input, flags.format).map_err(Stop::usage)?;
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
            if text.contains("is not a URL") { Stop::usage(text) } else { Stop(Exit::Unreachable, text) }
        })
    };
    let legacy = found(target(Side::Legacy, &flags.legacy))?;
    let serverless = found(target(Side::Serverless, &flags.serverless))?;
    let seed = flags.seed.unwrap_or_else(rand::random);
    let plan = Arc::new(Plan {
        legacy,
        serverless,
        pace: flags.pace,
        concurrency: usize::from(flags.concurrency),
        sandboxes: flags.sandbox.clone(),
        allow_unsafe: flags.allow_unsafe,
    });
    if flags.baseline.is_some() && plan.legacy.is_none() {
        return Err(Stop::usage("`--baseline` asks legacy twice; expected `--legacy URL`"));
    }
    if input.format == Format::AccessLog {
        eprintln!("banyan: an access log holds no bodies: only its GET and HEAD requests are asked");
    }
    if flags.dry_run {
        return Ok(dry_run(&plan, &input, flags.out.output));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Stop(Exit::Internal, error.to_string()))?;
    let noise = match flags.baseline {
        Some(count) => runtime.block_on(baseline(&plan, &input.requests, count, seed, &rules)),
        None => Noise::default(),
    };
    let pinned = noise.pinned(&rules);
    let bar = progress(input.requests.len() as u64);
    let step = bar.clone();
    let requests = std::mem::take(&mut input.requests);
    let facts = facts(&flags.input, &input, requests.len() as u64);
    let played = runtime.block_on(plan.clone().play(requests, Arc::new(move |done| step.set_position(done))));
    bar.finish_and_clear();
    if let Some(path) = &flags.save {
        save(path, &played)?;
    }
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
        if recorded.legacy.is_none() && recorded.serverless.is_none() {
            *played.skipped.entry("no recorded answer").or_default() += 1;
        } else {
            played.exchanges.push(recorded);
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
    Terms { rules, noise, claim, redactor, raw_values: out.values == Values::Raw }
}

impl TermFlags {
    fn plain() -> TermFlags {
        let parity = Parity {
            matching: Percent(banyan_routes::ids::SharePpm::ALL),
            confidence: Percent(banyan_routes::ids::SharePpm::ALL),
        };
        TermFlags {
            rules: None,
            route: None,
            ignore: Vec::new(),
            parity,
            coverage: Percent(banyan_routes::ids::SharePpm::ZERO),
        }
    }

    fn compile(&self) -> Result<Rules, Stop> {
        let mut rules = Rules::default();
        if let (Some(dir), Some(id)) = (&self.rules, &self.route) {
            let loaded = load_or_report(dir).map_err(|exit| Stop(exit, String::new()))?;
            let at = loaded
                .table
                .by_id
                .get(id.as_str())
                .ok_or_else(|| Stop::usage(format!("no route is called `{id}`")))?;
            rules =
                loaded.table.route(*at).shadow.as_ref().map(|rule| rule.rules.clone()).unwrap_or_default();
        }
        for entry in &self.ignore {
            rules.ignore(entry).map_err(|error| Stop::usage(format!("--ignore: {error}")))?;
        }
        Ok(rules)
    }

    fn digest(&self, report: &Report) -> String {
        let mut hash = Sha256::new();
        let rules = self.compile().map(|rules| rules.to_string()).unwrap_or_default();
        hash.update(format!(
            "{rules}\n{:?}\n{}\n{}\n{}",
            report.claim, report.legacy, report.serverless, report.values
        ));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Outputs {
    fn plain(output: Shape) -> Outputs {
        Outputs { json: None, junit: None, markdown: None, html: None, values: Values::Redacted, output }
    }
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
