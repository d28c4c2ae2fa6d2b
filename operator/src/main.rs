//! `operator`: flags, and which part of the library they call.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use operator::{
    api,
    controller::{
        build,
        objects::{Images, Owner, Placement, objects},
    },
    heartbeat::{Heartbeat, HeartbeatError},
    kubernetes,
    local::{self, Checked, LocalError, Resolve, output::Format},
    notify_test::{self, Tested},
    overview::{self, Question},
    webhook::WebhookPolicy,
};
use proxy_core::config::{Bind, Problem};

/// Runs connection tiers of PostgreSQL as PgPoolCluster objects describe them.
#[derive(Debug, Parser)]
#[command(name = "operator", version, disable_version_flag = true)]
struct Flags {
    /// Print the version.
    #[arg(short = 'V', long = "version", action = clap::ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Carry out the PgPoolClusters of a Kubernetes cluster, until SIGINT or SIGTERM.
    Run(Box<Run>),
    /// Run a tier as processes on this machine, until SIGINT or SIGTERM.
    Local(Box<Local>),
    /// Validate manifests, name every problem as FILE:LINE: message, change nothing.
    Check(Check),
    /// Print the Kubernetes objects that a manifest means, its Secret included; change nothing.
    Render(Render),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Show how a PgPoolCluster of Kubernetes does, what is wrong and what to do.
    /// Exit status: 0 if it is ready, 1 if not, 2 if it cannot be asked for.
    Status(Status),
    /// Send a test message to each channel of a manifest and say what came of
    /// it. Exit status 1 if one did not arrive.
    NotifyTest(NotifyTest),
    /// Make a PgPoolCluster from pgbouncer.ini and haproxy.cfg (not built yet).
    Convert,
}

#[derive(Debug, Args)]
struct Manifests {
    /// A manifest, or - for standard input; may be given several times. A
    /// document in a later one replaces an earlier one of the same kind and name.
    #[arg(short = 'f', long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Hosts that webhooks may have.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', default_values = WebhookPolicy::HOSTS_DEFAULT)]
    webhook_hosts: Vec<String>,
}

#[derive(Debug, Args)]
struct Beat {
    /// A file with a URL that is called while all is well, so that others notice
    /// when it is not: of https, and of a host of --webhook-hosts. Without the
    /// file it is taken from the environment: POOLKEEPER_HEARTBEAT_URL.
    #[arg(long, value_name = "FILE")]
    heartbeat_url_file: Option<PathBuf>,
    /// Seconds between two calls of it, 1 to 3600.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3600))]
    heartbeat_interval: u16,
}

impl Beat {
    fn read(self, policy: &WebhookPolicy) -> Result<Option<Heartbeat>, HeartbeatError> {
        let interval = Duration::from_secs(self.heartbeat_interval.into());
        Heartbeat::read(self.heartbeat_url_file, interval, policy)
    }
}

#[derive(Debug, Args)]
struct Check {
    #[command(flatten)]
    manifests: Manifests,
}

#[derive(Debug, Args)]
struct NotifyTest {
    #[command(flatten)]
    manifests: Manifests,
}

#[derive(Debug, Args)]
struct Render {
    #[command(flatten)]
    manifests: Manifests,
    /// The image of the poolers; it starts the pooler.
    #[arg(long, value_name = "IMAGE")]
    pooler_image: String,
    /// The image of the balancers; it starts the balancer.
    #[arg(long, value_name = "IMAGE")]
    balancer_image: String,
}

#[derive(Debug, Args)]
struct Run {
    /// Namespaces to look after, separated by commas; all if there is none.
    #[arg(
        long,
        env = "NAMESPACES",
        value_name = "NAMESPACE,…",
        value_delimiter = ','
    )]
    namespaces: Vec<String>,
    /// The image that poolers run, unless their cluster says otherwise; it starts the pooler.
    #[arg(long, env = "POOLER_IMAGE", value_name = "IMAGE")]
    pooler_image: String,
    /// The image that balancers run, unless their cluster says otherwise; it starts the balancer.
    #[arg(long, env = "BALANCER_IMAGE", value_name = "IMAGE")]
    balancer_image: String,
    /// Hosts that webhooks may have.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', default_values = WebhookPolicy::HOSTS_DEFAULT)]
    webhook_hosts: Vec<String>,
    /// Where /livez, /readyz, /metrics and /status are served.
    #[arg(long, value_name = "ADDR:PORT", default_value = "*:8080")]
    http: Bind,
    /// Namespace of the Lease that the acting replica holds [default: our own]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of that Lease.
    #[arg(long, value_name = "NAME", default_value = "poolkeeper-operator")]
    lease_name: String,
    /// How many seconds a replica that says nothing more goes on being the acting one, 3 to 600.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=600))]
    lease_duration: u16,
    /// Our name, unlike any other replica's [default: the host's, made unique]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    identity: Option<String>,
    #[command(flatten)]
    beat: Beat,
    /// How logs are written; RUST_LOG says which.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct Status {
    /// Name of the PgPoolCluster; may be left out where there is just one.
    name: Option<String>,
    /// Its namespace [default: that of the KUBECONFIG's context]
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The KUBECONFIG's context [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Tables for people, or an object for programs.
    #[arg(short = 'o', long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// A line for people.
    Text,
    /// An object a line.
    Json,
}

#[derive(Debug, Args)]
struct Local {
    #[command(flatten)]
    manifests: Manifests,
    /// Where state, configuration and logs are kept [default: .poolkeeper/NAME]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where pooler and balancer are [default: where this program is]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Added to the ports of the service, the dashboards and the operator; the
    /// search for the poolers' ports is moved too.
    #[arg(long, value_name = "N", default_value_t = 0)]
    port_offset: u16,
    /// What a host of the manifest stands for here; may be given several times.
    #[arg(long, value_name = "NAME=HOST:PORT")]
    resolve: Vec<Resolve>,
    #[command(flatten)]
    beat: Beat,
    /// A table for people, or an object a line for programs.
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Our name where kubectl finds us by it: `kubectl pgpc`.
const PLUGIN: &str = "kubectl-pgpc";

fn main() -> ExitCode {
    // kube and reqwest bring two providers; without a choice the first client panics.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let command = flags().command;
    begin_to_log(&command);
    match command {
        Command::Run(flags) => run(*flags),
        Command::Local(flags) => run_local(*flags),
        Command::Check(flags) => check(&flags.manifests),
        Command::Render(flags) => render(flags),
        Command::Crd => {
            print!("{}", api::crd_yaml());
            ExitCode::SUCCESS
        }
        Command::Status(flags) => show_status(flags),
        Command::NotifyTest(flags) => notify_test(&flags.manifests),
        Command::Convert => not_built(
            "converting pgbouncer.ini and haproxy.cfg; pooler reads a pgbouncer.ini as it is",
        ),
    }
}

/// The flags; as a plugin of kubectl the help says how it is called.
fn flags() -> Flags {
    let called = std::env::args_os().next().map(PathBuf::from);
    let is_plugin = called
        .as_ref()
        .and_then(|path| path.file_name())
        .is_some_and(|name| name == PLUGIN);
    let command = match is_plugin {
        true => Flags::command().bin_name("kubectl pgpc"),
        false => Flags::command(),
    };
    Flags::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

/// To standard error. A program that people look at says only what is wrong, one
/// that runs unattended also what it does.
fn begin_to_log(command: &Command) {
    use tracing_subscriber::EnvFilter;
    let (default, json) = match command {
        // What kube says of calls that fail, whoever made the call says better.
        Command::Run(flags) => ("info,kube_client=off", flags.log_format == LogFormat::Json),
        _ => ("error", false),
    };
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(filter) if !filter.is_empty() => EnvFilter::new(filter),
        _ => EnvFilter::new(default),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        log.json().init();
    } else {
        log.init();
    }
}

fn refused(error: &HeartbeatError) -> ExitCode {
    eprintln!("operator: {error}");
    ExitCode::FAILURE
}

fn run(flags: Run) -> ExitCode {
    let policy = WebhookPolicy {
        hosts: flags.webhook_hosts.clone(),
        loopback_http: false,
    };
    let heartbeat = match flags.beat.read(&policy) {
        Ok(heartbeat) => heartbeat,
        Err(error) => return refused(&error),
    };
    let options = kubernetes::Options {
        namespaces: flags.namespaces,
        images: Images {
            pooler: flags.pooler_image,
            balancer: flags.balancer_image,
        },
        webhook_hosts: flags.webhook_hosts,
        http: flags.http,
        lease_namespace: flags.lease_namespace,
        lease_name: flags.lease_name,
        lease_duration: Duration::from_secs(flags.lease_duration.into()),
        identity: flags.identity,
        heartbeat,
    };
    on_runtime(kubernetes::run(options))
}

/// Exit status of `status` where nothing can be said of the cluster.
const NO_ANSWER: u8 = 2;

fn show_status(flags: Status) -> ExitCode {
    let question = Question {
        name: flags.name,
        namespace: flags.namespace,
        context: flags.context,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let answer = match runtime {
        Ok(runtime) => runtime
            .block_on(overview::ask(&question))
            .map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    let overview = match answer {
        Ok(overview) => overview,
        Err(error) => {
            eprintln!("operator: {error}");
            return ExitCode::from(NO_ANSWER);
        }
    };
    let text = match flags.output {
        Format::Table => overview::render(&overview, jiff::Timestamp::now()),
        Format::Json => serde_json::to_string_pretty(&overview)
            .map(|text| format!("{text}\n"))
            .expect("plain data serialises"),
    };
    // Who reads may have seen enough: head, say.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    match overview.ready {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Runs a future to its end. What it leaves under way nobody waits for.
fn on_runtime<E: std::fmt::Display>(work: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("operator: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(work);
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn not_built(what: &str) -> ExitCode {
    eprintln!("operator: not built yet: {what}");
    ExitCode::FAILURE
}

fn print(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

/// Reads and validates; says on standard error what is wrong or worth a look.
fn checked(manifests: &Manifests) -> Option<Checked> {
    let policy = WebhookPolicy {
        hosts: manifests.webhook_hosts.clone(),
        loopback_http: true,
    };
    match local::check(&manifests.files, &policy) {
        Ok(checked) => {
            for remark in &checked.remarks {
                eprintln!("{remark}");
            }
            Some(checked)
        }
        Err(problems) => {
            print(&problems);
            None
        }
    }
}

fn check(manifests: &Manifests) -> ExitCode {
    let Some(checked) = checked(manifests) else {
        return ExitCode::FAILURE;
    };
    let (file, name) = (checked.manifest.file(), &checked.cluster.name);
    println!("{file}: PgPoolCluster {name} is valid");
    ExitCode::SUCCESS
}

fn notify_test(manifests: &Manifests) -> ExitCode {
    let Some(checked) = checked(manifests) else {
        return ExitCode::FAILURE;
    };
    let cluster = &checked.cluster;
    if cluster.channels.is_empty() {
        eprintln!("operator: {}: spec.notifications is empty", cluster.name);
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let tested = match runtime {
        Ok(runtime) => runtime
            .block_on(notify_test::run(cluster))
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match tested {
        Ok(tested) => {
            for one in &tested {
                println!("{one}");
            }
            match tested.iter().all(Tested::arrived) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("operator: cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(flags: Render) -> ExitCode {
    let Some(checked) = checked(&flags.manifests) else {
        return ExitCode::FAILURE;
    };
    let images = Images {
        pooler: flags.pooler_image,
        balancer: flags.balancer_image,
    };
    let placement = Placement {
        owner: &Owner::of(&checked.manifest.cluster),
        images: &images,
        // It takes a key that only a controller has.
        revision: None,
    };
    let objects = objects(&build::tier(&checked.cluster), &placement);
    print!("{}", objects.yaml());
    ExitCode::SUCCESS
}

fn run_local(flags: Local) -> ExitCode {
    let policy = WebhookPolicy {
        hosts: flags.manifests.webhook_hosts.clone(),
        loopback_http: true,
    };
    let heartbeat = match flags.beat.read(&policy) {
        Ok(heartbeat) => heartbeat,
        Err(error) => return refused(&error),
    };
    let options = local::Options {
        files: flags.manifests.files,
        webhook_hosts: flags.manifests.webhook_hosts,
        state_dir: flags.state_dir,
        bin_dir: flags.bin_dir,
        bind: flags.bind,
        port_offset: flags.port_offset,
        resolve: flags.resolve,
        output: flags.output,
        heartbeat,
    };
    on_runtime(async {
        local::run(&options).await.inspect_err(|error| {
            if let LocalError::Manifest(problems) = error {
                print(problems);
            }
        })
    })
}
