use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::{AuthorityInfo, FrontInfo, Local, Public, Tls};
use compute::engine::Engine;
use compute::install::{self, Archive};
use compute::limits::Limiter;
use compute::machine::Machine;
use compute::run_as;
use compute::server::{DEFAULT_MAJOR, Server};
use control::clock::{SystemClock, SystemRandom};
use control::{Control, Domain, Settings};
use jiff::SignedDuration;
use proxy::{Certificates, Doorman, Patience};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::context::Global;
use crate::daemon::{self, LogFormat, Options};
use crate::failure::{Exit, Failure};
use crate::home;
use crate::output;
use crate::system;

/// Run the daemon in the foreground
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Leave the computes running when the daemon is ended by a signal
    #[arg(long)]
    keep_computes: bool,
    /// Started by `ana up`: log to a file, leave the terminal
    #[arg(long, hide = true)]
    background: bool,
}

/// Pause between two rounds of reconciliation.
const ROUND: Duration = Duration::from_secs(2);

/// Ports tried after a busy one.
const PORTS: u16 = 64;

/// Calls that still run after the end of everything else get this long.
const LAST_CALLS: Duration = Duration::from_secs(5);

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    system::make_files_private();
    // Before giving up root: the key may be closed to others.
    let tls = read_tls(&args.options)?;
    // Before the home is looked for a second time: the place depends on who we are.
    let home = global.home()?;
    let owner = args.options.owner.clone().unwrap_or_else(daemon::usual_owner);
    let limiter = become_ordinary_user(&home, &args.options)?;
    daemon::make_dir(&home)?;
    let home = home
        .canonicalize()
        .map_err(|error| Failure::io(format!("cannot resolve {}", home.display()), &error))?;
    compute::platform::check(&home).map_err(|unsupported| {
        Failure::new(Exit::Outside, unsupported.to_string()).with_hint(unsupported.hint())
    })?;
    daemon::make_dir(&home.join("run"))?;
    let _lock = daemon::lock(&home)?;
    if args.background {
        system::leave_session();
    }
    system::raise_open_files_limit();
    start_log(&home, args.background, args.options.log_format)?;
    let server = find_server(&home, &args)?;
    let run_dir = home::daemon_dir(&home)?;
    let shim = shim_image::install(&home.join("run")).map_err(|error| {
        Failure::io(format!("cannot write the preload library in {}", home.display()), &error)
    })?;
    let engine = Engine::open(&home, &shim, &run_dir)?;
    tracing::info!(means = limiter.means().as_str(), "sizes of computes");
    engine.limit_with(limiter);
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Exit::Outside, format!("cannot start threads: {error}")))?;
    let settings = Settings {
        home,
        pg_port: args.options.pg_port,
        owner,
        delete_grace: args.options.delete_grace.map(|seconds| SignedDuration::from_secs(seconds as i64)),
        round: ROUND,
        domain: None,
        hosting: args.options.hosting(),
    };
    let socket = run_dir.join(home::SOCKET);
    let outcome = runtime.block_on(serve(settings, Arc::new(engine), server, socket, tls, &args));
    home::leave_daemon_dir(&run_dir);
    // A step that still waits for a disk must not keep the process.
    runtime.shutdown_timeout(LAST_CALLS);
    outcome
}

async fn serve(
    settings: Settings,
    engine: Arc<Engine>,
    server: Server,
    socket: PathBuf,
    tls: Option<Tls>,
    args: &Args,
) -> Result<(), Failure> {
    let keys = settings.home.join("keys");
    let shared = listen_for_all(&args.options).await?;
    let port = shared.as_ref().and_then(|listener| listener.local_addr().ok()).map(|address| address.port());
    let domain = args.options.domain.clone().zip(port).map(|(name, port)| Domain { name, port });
    let settings = Settings { domain, ..settings };
    let control =
        Control::open(settings, engine, server, Arc::new(SystemClock::new()), Arc::new(SystemRandom))?;
    let certificates = Arc::new(certificates(&keys, &args.options)?);
    // Before the first endpoint is listened for.
    let proxy = Doorman::install(&control, Arc::clone(&certificates), Patience::default())
        .map_err(|error| Failure::new(Exit::Outside, format!("cannot start threads: {error}")))?;
    control.run().await?;
    let listener =
        api::bind_public(args.options.http_listen, args.options.http_port).await.map_err(|error| {
            Failure::io(format!("cannot listen for HTTP on {}", args.options.http_listen), &error)
        })?;
    let (shutdown, mut asked) = watch::channel(None);
    let (ended, _) = watch::channel(false);
    let local = Local {
        control: Arc::clone(&control),
        owner_uid: system::effective_uid(),
        http: listener.local_addr().ok(),
        https: tls.is_some(),
        front: FrontInfo {
            authority: certificates.authority().map(|(certificate, file)| AuthorityInfo {
                certificate: certificate.to_owned(),
                file: file.to_owned(),
            }),
            shared: shared.as_ref().and_then(|listener| listener.local_addr().ok()),
        },
        shutdown: shutdown.clone(),
    };
    if let Some(http) = local.http {
        let scheme = if local.https { "https" } else { "http" };
        output::talk(format!("daemon listens on {} and {scheme}://{http}", socket.display()));
    }
    let public = Public { local: local.clone(), urls: args.options.http_url.clone(), tls };
    let public = tokio::spawn(api::serve_public(listener, public, until(&ended)));
    // Ends with the runtime; the sessions end with their computes.
    if let Some(shared) = shared {
        tokio::spawn(proxy.listen(shared));
    }
    let end = until(&ended);
    let mut private = tokio::spawn(async move { api::serve_local(local, &socket, end).await });
    watch_signals(shutdown, args.keep_computes)?;

    let keep = tokio::select! {
        outcome = &mut private => {
            let error = outcome.map_err(std::io::Error::other).and_then(|inner| inner).err();
            let error = error.unwrap_or_else(|| std::io::Error::other("it ended"));
            return Err(Failure::io("the daemon's socket failed", &error));
        }
        keep = async { asked.wait_for(Option::is_some).await.ok().and_then(|keep| *keep).unwrap_or(false) } => keep,
    };
    tracing::info!(keep_computes = keep, "ending");
    let outcome = control.shut_down(keep).await;
    ended.send_replace(true);
    let _ = tokio::time::timeout(LAST_CALLS, async { (private.await, public.await) }).await;
    tracing::info!("ended");
    Ok(outcome?)
}

/// Tokens must not go over a network unencrypted.
fn read_tls(options: &Options) -> Result<Option<Tls>, Failure> {
    match (&options.http_tls_cert, &options.http_tls_key) {
        (Some(certificate), Some(key)) => {
            let tls = Tls::read(certificate, key).map_err(Failure::refused)?;
            Ok(Some(tls))
        }
        _ if options.http_listen.is_loopback() => Ok(None),
        _ => Err(Failure::refused(format!("{} is not a loopback address", options.http_listen))
            .with_hint("give --http-tls-cert and --http-tls-key, or leave --http-listen at 127.0.0.1")),
    }
}

fn certificates(keys: &Path, options: &Options) -> Result<Certificates, Failure> {
    let certificates = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => Certificates::given(certificate, key, options.domain.clone()),
        _ => Certificates::own(keys, options.domain.clone()),
    };
    certificates.map_err(|error| Failure::refused(error.to_string()))
}

/// The listener for connections that say by other means than their address which endpoint they are
/// for. Only with a domain does anything depend on it: each endpoint has an address of its own.
async fn listen_for_all(options: &Options) -> Result<Option<TcpListener>, Failure> {
    let (address, first) = (options.pg_listen, options.pg_port);
    if address.is_unspecified() {
        // It would take the port away from the endpoints' own addresses.
        return Err(Failure::refused(format!("--pg-listen cannot be {address}"))
            .with_hint("give one address of this host"));
    }
    let last = if first == 0 { 0 } else { first.saturating_add(PORTS) };
    match bind_first(address, first..=last).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if options.domain.is_some() || !address.is_loopback() => {
            Err(Failure::io(format!("cannot listen for PostgreSQL on {address}"), &error))
        }
        Err(error) => {
            tracing::warn!(%error, "no port is free on {address}; endpoints are reached by their own addresses");
            Ok(None)
        }
    }
}

async fn bind_first(address: IpAddr, ports: std::ops::RangeInclusive<u16>) -> std::io::Result<TcpListener> {
    let (mut first, mut failure) = (None, std::io::ErrorKind::AddrNotAvailable.into());
    for port in ports {
        match TcpListener::bind((address, port)).await {
            Ok(listener) => {
                if let Some(first) = first {
                    tracing::warn!(
                        first,
                        port,
                        "the usual port was taken; names of endpoints need the other"
                    );
                }
                return Ok(listener);
            }
            Err(error) => {
                first.get_or_insert(port);
                failure = error;
            }
        }
    }
    Err(failure)
}

/// Resolves once the flag is set.
fn until(flag: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut flag = flag.subscribe();
    async move {
        let _ = flag.wait_for(|set| *set).await;
    }
}

fn watch_signals(shutdown: watch::Sender<Option<bool>>, keep_computes: bool) -> Result<(), Failure> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).map_err(|error| Failure::io("cannot wait for signals", &error))?;
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                shutdown.send_replace(Some(keep_computes));
            }
        });
    }
    Ok(())
}

/// PostgreSQL refuses to run as root, and nothing of ours needs to. What holds computes to their
/// sizes is made ready on the way, while that is still allowed.
fn become_ordinary_user(home: &Path, options: &Options) -> Result<Limiter, Failure> {
    let Some(choice) = run_as::choose(options.run_as.as_deref())? else {
        return Ok(Limiter::prepare(home, None));
    };
    if let Some(warning) = choice.warning {
        output::talk(format!("warning: {warning}"));
    }
    run_as::prepare_home(home, &choice.user)?;
    let limiter = Limiter::prepare(home, Some(&choice.user));
    run_as::drop_privileges(&choice.user)?;
    // The caller's directory may be closed to the new user, and PostgreSQL's programs look at it.
    std::env::set_current_dir("/").map_err(|error| Failure::io("cannot change to /", &error))?;
    Ok(limiter)
}

fn find_server(home: &Path, args: &Args) -> Result<Server, Failure> {
    let failed = |error: install::Error| Failure {
        exit: Exit::Outside,
        message: error.to_string(),
        hint: error.hint(),
    };
    let request = install::Request {
        major: DEFAULT_MAJOR,
        bin_dir: args.options.pg_bin.clone(),
        home: home.to_owned(),
        archive: Archive::from_environment().map_err(failed)?,
    };
    let mut note = |line: &str| {
        tracing::info!("{line}");
        if args.background {
            output::talk(line);
        }
    };
    let server = install::find_or_install(&Machine::this(), &request, &mut note).map_err(failed)?;
    note(&format!("PostgreSQL {} from {}", server.version(), server.bin_dir.display()));
    Ok(server)
}

fn start_log(home: &Path, background: bool, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("ANABRANCH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (writer, colour) = if background {
        (BoxMakeWriter::new(std::sync::Mutex::new(daemon::open_log(home)?)), false)
    } else {
        (BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal())
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(writer);
    match format {
        LogFormat::Text => builder.with_ansi(colour).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        tracing::error!("a task failed: {info}");
        usual(info);
    }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn tls(arguments: &[&str]) -> Result<bool, String> {
        let line =
            Line::try_parse_from([&["serve"], arguments].concat()).map_err(|error| error.to_string())?;
        read_tls(&line.args.options).map(|tls| tls.is_some()).map_err(|failure| failure.render())
    }

    #[test]
    fn tokens_stay_on_this_machine_or_are_encrypted() {
        assert_eq!(tls(&[]), Ok(false));
        assert_eq!(tls(&["--http-listen=::1"]), Ok(false));
        for open in ["0.0.0.0", "::", "192.0.2.1"] {
            let refusal = tls(&["--http-listen", open]).unwrap_err();
            assert!(refusal.contains("--http-tls-cert"), "{refusal}");
        }
        assert!(tls(&["--http-tls-cert=/none.pem"]).is_err(), "a certificate without its key");
        let refusal = tls(&["--http-tls-cert=/none.pem", "--http-tls-key=/none.key"]).unwrap_err();
        assert!(refusal.contains("/none.pem"), "{refusal}");
    }
}
