//! The flags of `banyan compare`, and what they mean for comparing.
//!
//! Input: arguments. Output: checked flags, rules of comparison, a digest of the configuration. Must not: do any of the work.

use super::Stop;
use crate::commands::rules::{NoRules, load};
use crate::testrun::input::Format;
use crate::testrun::play::Pace;
use crate::testrun::score::Report;
use banyan_routes::compare::rules::Rules;
use banyan_routes::ids::SharePpm;
use banyan_routes::problem::report;
use banyan_routes::terms::Parity;
use banyan_routes::units::{ByteSize, Percent, Span};
use clap::{Args, Subcommand, ValueEnum};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

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
    pub input: PathBuf,
    /// By the file's name and start when not given.
    #[arg(long, env = "BANYAN_FORMAT", value_enum)]
    pub format: Option<Format>,
    /// Where legacy is asked; the recorded answers are taken when not given.
    #[arg(long, env = "BANYAN_LEGACY", value_name = "URL")]
    pub legacy: Option<String>,
    /// Where serverless is asked.
    #[arg(long, env = "BANYAN_SERVERLESS", value_name = "URL")]
    pub serverless: Option<String>,
    /// The Host to send to both; each target's own when not given.
    #[arg(long, env = "BANYAN_HOST", value_name = "NAME")]
    pub host: Option<String>,
    /// `max`, `100/s`, `original` or `original*0.5`.
    #[arg(long, env = "BANYAN_PACE", default_value = "max")]
    pub pace: Pace,
    /// Requests under way at one time at `--pace max`; by another pace as many as are due, up to 1,024.
    #[arg(long, env = "BANYAN_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// For one answer of one side.
    #[arg(long, env = "BANYAN_TIMEOUT", default_value = "10s")]
    pub timeout: Span,
    /// Of an answer; what is longer cannot be compared.
    #[arg(long, env = "BANYAN_MAX_BODY", default_value = "4MiB")]
    pub max_body: ByteSize,
    /// Only what was recorded of this host, with its port where one was named; repeat for several. What names none is kept.
    #[arg(long, env = "BANYAN_ONLY_HOST", value_name = "NAME", value_delimiter = ',')]
    pub only_host: Vec<String>,
    /// Only the first so many.
    #[arg(long, env = "BANYAN_LIMIT")]
    pub limit: Option<usize>,
    /// Ask legacy twice, so many times, first; what it differs in from itself is noise. 30 are the least that teach anything.
    #[arg(long, env = "BANYAN_BASELINE", value_name = "N", num_args = 0..=1, default_missing_value = "100")]
    pub baseline: Option<usize>,
    /// Also send what is not safe, to targets that are declared sandboxes.
    #[arg(long, env = "BANYAN_ALLOW_UNSAFE")]
    pub allow_unsafe: bool,
    /// A `host:port` whose data may be changed; repeat for several.
    #[arg(long, env = "BANYAN_SANDBOX", value_name = "HOST", value_delimiter = ',')]
    pub sandbox: Vec<String>,
    /// Order of the baseline and pseudonyms; by chance when not given, and then told.
    #[arg(long, env = "BANYAN_SEED")]
    pub seed: Option<u64>,
    /// Say what would be sent, and send nothing.
    #[arg(long, env = "BANYAN_DRY_RUN")]
    pub dry_run: bool,
    /// Requests and answers as they came, to be compared again by `rescore`. It holds what the input and the answers hold: keep it like them.
    #[arg(long, env = "BANYAN_SAVE", value_name = "FILE")]
    pub save: Option<PathBuf>,
    #[command(flatten)]
    pub terms: TermFlags,
    #[command(flatten)]
    pub out: Outputs,
}

#[derive(Args)]
pub struct TermFlags {
    /// Rules of a directory; with `--route`, what that route's `shadow` says about comparing.
    #[arg(long, env = "BANYAN_RULES", value_name = "DIR", requires = "route")]
    pub rules: Option<PathBuf>,
    #[arg(long, env = "BANYAN_ROUTE", value_name = "ID", requires = "rules")]
    pub route: Option<String>,
    /// Leave out `header.NAME` or `json:$.path`; repeat for several.
    #[arg(long, env = "BANYAN_IGNORE", value_name = "PATH")]
    pub ignore: Vec<String>,
    /// What has to be shown.
    #[arg(long, env = "BANYAN_PARITY", default_value = "99% at 95%")]
    pub parity: Parity,
    /// The part of the requests asked that has to be compared.
    #[arg(long, env = "BANYAN_COVERAGE", default_value = "90%")]
    pub coverage: Percent,
}

#[derive(Args)]
pub struct Outputs {
    #[arg(long, env = "BANYAN_JSON", value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[arg(long, env = "BANYAN_JUNIT", value_name = "FILE")]
    pub junit: Option<PathBuf>,
    #[arg(long, env = "BANYAN_MARKDOWN", value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// One page that works from the disk.
    #[arg(long, env = "BANYAN_HTML", value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// What reports show of values; redacted when not given.
    #[arg(long, env = "BANYAN_VALUES", value_enum)]
    pub values: Option<Values>,
    #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
    pub output: Shape,
}

impl TermFlags {
    /// As when nothing is given.
    pub fn plain() -> TermFlags {
        let percent = |percent: u32| Percent(SharePpm::new(percent * 10_000).unwrap_or(SharePpm::ALL));
        let parity = Parity { matching: percent(99), confidence: percent(95) };
        TermFlags { rules: None, route: None, ignore: Vec::new(), parity, coverage: percent(90) }
    }

    pub fn compile(&self) -> Result<Rules, Stop> {
        let mut rules = Rules::default();
        if let (Some(dir), Some(id)) = (&self.rules, &self.route) {
            let loaded = load(dir).map_err(|no_rules| match no_rules {
                NoRules::Unreadable(error) => Stop::usage(error),
                NoRules::Invalid(sources, problems) => {
                    let lines: Vec<String> = report(&sources, &problems).iter().map(|it| it.line()).collect();
                    Stop::usage(lines.join("\nbanyan: "))
                }
            })?;
            let at =
                loaded.table.position(id).ok_or_else(|| Stop::usage(format!("no route is called `{id}`")))?;
            rules = loaded.table.route(at).shadow.as_ref().map(|rule| rule.rules.clone()).unwrap_or_default();
        }
        for entry in &self.ignore {
            rules.ignore(entry).map_err(|error| Stop::usage(format!("--ignore: {error}")))?;
        }
        Ok(rules)
    }

    pub fn digest(&self, report: &Report) -> String {
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
    pub fn plain(output: Shape) -> Outputs {
        Outputs { json: None, junit: None, markdown: None, html: None, values: None, output }
    }
}
