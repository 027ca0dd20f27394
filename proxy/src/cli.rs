//! The command line: every command and flag, and what each calls.
//!
//! Input: arguments and `BANYAN_*` variables. Output: an exit code. Must not: do any of the work.

use crate::admin_client::AdminClient;
use crate::commands::check::CheckOutput;
use crate::commands::explain::CallerFlags;
use crate::commands::size::{Format, LoadFlags};
use crate::commands::{changes, check, compare, demo, explain, layout, plan, remote, run, size, tap, top};
use crate::exit::Exit;
use crate::settings::Flags;
use crate::tap::Status;
use banyan_routes::decide::Reason;
use banyan_routes::units::Percent;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser, PossibleValuesParser};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Moves traffic from an on-prem legacy system to serverless endpoints, route by route, with proof at every step.
#[derive(Parser)]
#[command(name = "banyan", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Args)]
struct Remote {
    /// The admin API of a running proxy.
    #[arg(long, env = "BANYAN_ADMIN", default_value = "http://127.0.0.1:9901", value_name = "URL")]
    admin: String,
    /// A file that holds the bearer token.
    #[arg(long, env = "BANYAN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct ChangeFlags {
    /// Why; it stands in the audit log.
    #[arg(long, env = "BANYAN_REASON", default_value = "")]
    reason: String,
    /// Say what would come of it.
    #[arg(long, env = "BANYAN_DRY_RUN")]
    dry_run: bool,
    /// Do not ask on a terminal.
    #[arg(long, env = "BANYAN_YES")]
    yes: bool,
    /// Only if the state is at this revision.
    #[arg(long, env = "BANYAN_IF_REVISION", value_name = "R")]
    if_revision: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Subcommand)]
enum Command {
    /// Serve traffic by the rules of a directory.
    Run {
        #[arg(long, env = "BANYAN_RULES", value_name = "DIR")]
        rules: Option<PathBuf>,
        #[arg(long, env = "BANYAN_SETTINGS", value_name = "FILE")]
        settings: Option<PathBuf>,
        /// Repeat for several plain HTTP listeners; replaces those of the settings.
        #[arg(long, env = "BANYAN_LISTEN", value_name = "ADDR", value_delimiter = ',')]
        listen: Vec<SocketAddr>,
        #[arg(long, env = "BANYAN_ADMIN", value_parser = admin_address, value_name = "ADDR")]
        admin: Option<SocketAddr>,
        #[arg(long, env = "BANYAN_STATE", value_name = "DIR")]
        state: Option<PathBuf>,
        /// Start without valid rules and stay unready until there are some.
        #[arg(long, env = "BANYAN_WAIT_FOR_RULES")]
        wait_for_rules: bool,
    },
    /// The legacy airline, the serverless airline, the proxy and traffic, in one process.
    Demo {
        #[arg(long, env = "BANYAN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
        listen: SocketAddr,
        #[arg(long, env = "BANYAN_ADMIN", value_parser = admin_address, value_name = "ADDR", default_value = "127.0.0.1:9901")]
        admin: SocketAddr,
        #[arg(long, env = "BANYAN_NO_TRAFFIC")]
        no_traffic: bool,
    },
    /// Compile a rule directory and run its tests; every problem is shown.
    Check {
        dir: PathBuf,
        #[arg(long, env = "BANYAN_DENY_WARNINGS")]
        deny_warnings: bool,
        #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
        output: CheckOutput,
    },
    /// Run the rules' own tests, one line each.
    Test { dir: PathBuf },
    /// Show where a request goes, why, and why every other route lost.
    Explain {
        #[arg(long, env = "BANYAN_RULES", value_name = "DIR")]
        rules: PathBuf,
        /// With `CONNECT`, the egress rules are asked.
        method: String,
        /// With `CONNECT`: `host:port`; a name alone, as in TLS; or `-` where the listener's rule says where to.
        url: String,
        #[arg(short = 'H', long = "header", env = "BANYAN_HEADER", value_name = "K: V")]
        headers: Vec<String>,
        #[arg(long, env = "BANYAN_LISTENER", default_value = "", value_name = "NAME")]
        listener: String,
        #[arg(long, env = "BANYAN_CLIENT_IP", value_name = "IP")]
        client_ip: Option<IpAddr>,
        #[command(flatten)]
        caller: CallerFlags,
        #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
        output: Output,
    },
    /// Show what changes between two rule directories.
    Plan {
        #[arg(long, env = "BANYAN_FROM", value_name = "DIR")]
        from: PathBuf,
        #[arg(long, env = "BANYAN_TO", value_name = "DIR")]
        to: PathBuf,
        /// `METHOD URL` lines or JSON lines, replayed against both.
        #[arg(long, env = "BANYAN_REQUESTS", value_name = "FILE")]
        requests: Option<PathBuf>,
        /// 0 no change, 1 error, 2 changes.
        #[arg(long, env = "BANYAN_DETAILED_EXITCODE")]
        detailed_exitcode: bool,
        #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
        output: Output,
    },
    /// Shadow-compare test runs: recorded requests, both sides, a verdict.
    #[command(subcommand)]
    Compare(compare::Compare),
    /// Lay out rule files; names those that changed.
    Fmt {
        dir: PathBuf,
        /// Change nothing; exit 1 when something would be.
        #[arg(long, env = "BANYAN_CHECK")]
        check: bool,
    },
    /// Print the JSON Schema of rule files.
    Schema,
    /// Print completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page.
    Man,
    /// What serves: revision, stages, kill switches.
    Status {
        /// Again every two seconds, with the routes, until it is interrupted or the proxy is gone.
        #[arg(long, env = "BANYAN_WATCH")]
        watch: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// All routes with stage, share and counts.
    Routes {
        #[command(flatten)]
        remote: Remote,
    },
    /// One route with its rule.
    Show {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// Only the rules that are proposed for its comparisons, as YAML to pin them by.
        #[arg(long, env = "BANYAN_PATCH")]
        patch: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Raise a route's share to the next step of its ramp.
    Promote {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Keep a route's share where it is.
    Hold {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Lift a hold, and a rollback with it.
    Resume {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Set the share of a route in stage ramp.
    SetShare {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// Such as `25%`.
        #[arg(value_parser = share)]
        share: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Approve the next step that needs it.
    Approve {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Send everybody back to legacy, and hold.
    Rollback {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        id: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Turn a kill switch on: `all`, `group:<name>` or a route's id.
    Kill {
        #[arg(default_value = "all")]
        scope: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Turn a kill switch off.
    Unkill {
        #[arg(default_value = "all")]
        scope: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// Every change beside the rules, and whether its chain is whole.
    Audit {
        #[command(flatten)]
        remote: Remote,
    },
    /// Paths that no route claims, as templates.
    Unclaimed {
        /// As rules in stage legacy, to be completed.
        #[arg(long, env = "BANYAN_RULES_YAML")]
        rules: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Hold a backend's breaker open or closed by hand, or let it go.
    Breaker {
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        backend: String,
        /// What it shall be.
        #[arg(value_parser = ["open", "close", "auto"])]
        state: String,
        #[command(flatten)]
        change: ChangeFlags,
    },
    /// How many proxies, addresses and connections it takes, and what it took before.
    Size {
        #[command(flatten)]
        load: LoadFlags,
        #[arg(long, env = "BANYAN_OUTPUT", value_enum, default_value = "text")]
        output: Format,
    },
    /// Routes and their sides on a terminal, a snapshot a second; elsewhere one table.
    Top {
        /// One table, on a terminal as well.
        #[arg(long, env = "BANYAN_ONCE")]
        once: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Decisions as they are made, one a line, until it is interrupted.
    Tap {
        /// Only of this route.
        #[arg(long, env = "BANYAN_ROUTE")]
        route: Option<String>,
        /// Only of this side: legacy, serverless, or none for answers of Banyan itself.
        #[arg(long, env = "BANYAN_SIDE", value_parser = ["legacy", "serverless", "none"])]
        side: Option<String>,
        /// Only by this reason, such as `bucket` or `fallback`.
        #[arg(long, env = "BANYAN_REASON_IS", value_parser = reason())]
        reason: Option<String>,
        /// Only with this status, such as `502` or `5xx`.
        #[arg(long, env = "BANYAN_STATUS", value_parser = status)]
        status: Option<String>,
        /// End after so many.
        #[arg(long, env = "BANYAN_COUNT")]
        count: Option<u64>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Make a running proxy read its rules again.
    Reload {
        /// Why; it stands in the proxy's log.
        #[arg(long, env = "BANYAN_REASON", default_value = "")]
        reason: String,
        /// Only if the state is at this revision.
        #[arg(long, env = "BANYAN_IF_REVISION", value_name = "R")]
        if_revision: Option<u64>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Exit 0 when a running proxy is ready, 1 when not, 3 when it cannot be reached.
    Healthcheck {
        #[command(flatten)]
        remote: Remote,
    },
}

/// An address, also in the form of the URL that other commands take: one variable serves all of them.
fn admin_address(text: &str) -> Result<SocketAddr, std::net::AddrParseError> {
    text.trim_start_matches("http://").trim_end_matches('/').parse()
}

/// What is sent is what was written; that it is a share is known here already.
fn share(text: &str) -> Result<String, String> {
    text.parse::<Percent>().map(|_| text.to_owned())
}

fn status(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not a status; expected for example 502 or 5xx");
    Status::parse(text).map(|_| text.to_owned()).ok_or_else(wrong)
}

fn reason() -> PossibleValuesParser {
    Reason::ALL.map(Reason::as_str).into_iter().chain(["none"]).collect::<Vec<_>>().into()
}

/// Variables are read as other tools read them: a flag is on by `1` or `yes` as well, and an empty variable is none.
fn flags(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let empty = arg.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|it| it.is_empty()));
        let arg = if empty { arg.env(None::<&str>) } else { arg };
        match arg.get_action() {
            ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
            _ => arg,
        }
    });
    command.mut_subcommands(flags)
}

/// Parses and runs.
pub fn main() -> Exit {
    let parsed = flags(Cli::command()).try_get_matches();
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => dispatch(cli.command),
        Err(error) => {
            // Help and version are answers, not mistakes.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            let _ = error.print();
            exit
        }
    }
}

fn dispatch(command: Command) -> Exit {
    match command {
        Command::Run { rules, settings, listen, admin, state, wait_for_rules } => {
            let flags = Flags { listen, admin, rules, state, attribution: false };
            run::run(settings.as_deref(), &flags, wait_for_rules)
        }
        Command::Demo { listen, admin, no_traffic } => demo::run(listen, admin, !no_traffic),
        Command::Check { dir, deny_warnings, output } => check::check(&dir, deny_warnings, output),
        Command::Test { dir } => check::test(&dir),
        Command::Explain { rules, method, url, headers, listener, client_ip, caller, output } => {
            let question = explain::Question {
                method: &method,
                url: &url,
                headers: &headers,
                listener: &listener,
                client_ip,
                caller,
            };
            explain::run(&rules, &question, output == Output::Json)
        }
        Command::Plan { from, to, requests, detailed_exitcode, output } => {
            plan::run(&from, &to, requests.as_deref(), detailed_exitcode, output == Output::Json)
        }
        Command::Fmt { dir, check } => layout::fmt(&dir, check),
        Command::Schema => layout::schema(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "banyan", &mut std::io::stdout());
            Exit::Ok
        }
        Command::Man => match clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout()) {
            Ok(()) => Exit::Ok,
            Err(_) => Exit::Internal,
        },
        Command::Status { watch: false, remote } => with_admin(&remote, remote::status),
        Command::Status { watch: true, remote } => with_admin(&remote, remote::watch),
        Command::Routes { remote } => with_admin(&remote, remote::routes),
        Command::Compare(command) => compare::run(command),
        Command::Show { id, patch: true, remote } => {
            with_admin(&remote, |client, json| remote::patch(client, &id, json))
        }
        Command::Show { id, patch: false, remote } => {
            with_admin(&remote, |client, json| remote::show(client, &id, json))
        }
        Command::Promote { id, change } => changed(&change, &id, "promote", json!({})),
        Command::Hold { id, change } => changed(&change, &id, "hold", json!({})),
        Command::Resume { id, change } => changed(&change, &id, "resume", json!({})),
        Command::SetShare { id, share, change } => changed(&change, &id, "share", json!({ "share": share })),
        Command::Approve { id, change } => changed(&change, &id, "approve", json!({})),
        Command::Rollback { id, change } => changed(&change, &id, "rollback", json!({})),
        Command::Kill { scope, change } => changed(&change, "", "kill", json!({ "scope": scope })),
        Command::Unkill { scope, change } => changed(&change, "", "unkill", json!({ "scope": scope })),
        Command::Audit { remote } => with_admin(&remote, changes::audit),
        Command::Unclaimed { rules, remote } => {
            with_admin(&remote, |client, json| remote::unclaimed(client, json, rules))
        }
        Command::Breaker { backend, state, change } => {
            let body = body(&change, json!({ "state": state, "actor": changes::actor() }));
            with_admin(&change.remote, |client, json| remote::breaker(client, json, &backend, &body))
        }
        Command::Size { load, output } => size::run(&load.into(), output),
        Command::Top { once, remote } => with_admin(&remote, |client, json| top::run(client, json, once)),
        Command::Tap { route, side, reason, status, count, remote } => {
            let wanted = tap::Wanted { route, side, reason, status, count };
            with_admin(&remote, |client, json| tap::run(client, json, &wanted))
        }
        Command::Reload { reason, if_revision, remote } => {
            let body = json!({ "reason": reason, "if_revision": if_revision });
            with_admin(&remote, |client, json| remote::reload(client, json, &body))
        }
        Command::Healthcheck { remote } => with_admin(&remote, remote::healthcheck),
    }
}

/// `id` is empty where the body says what is meant.
fn changed(flags: &ChangeFlags, id: &str, action: &str, more: Value) -> Exit {
    let body = body(flags, more);
    with_admin(&flags.remote, |client, json| changes::change(client, id, action, body, flags.yes, json))
}

fn body(flags: &ChangeFlags, mut body: Value) -> Value {
    body["reason"] = json!(flags.reason);
    body["dry_run"] = json!(flags.dry_run);
    if let Some(revision) = flags.if_revision {
        body["if_revision"] = json!(revision);
    }
    body
}

fn with_admin(remote: &Remote, ask: impl FnOnce(&AdminClient, bool) -> Exit) -> Exit {
    match AdminClient::new(&remote.admin, remote.token_file.as_deref()) {
        Ok(client) => ask(&client, remote.output == Output::Json),
        Err(error) => {
            eprintln!("banyan: {error}");
            Exit::Usage
        }
    }
}
