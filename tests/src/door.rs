//! A front door before the branches of a lab: the real proxy, real servers, and a gatekeeper that
//! knows two endpoints, some roles and some tokens.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use compute::engine::ComputeState;
use control::model::{IdentityType, Principal, PrincipalKind};
use proxy::{
    Certificates, ConnectError, Gatekeeper, Patience, Proxy, RoleLogin, Route, Secret, Selector,
    TokenIdentity, Trouble,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, UnixStream};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::lab::{Lab, key, run};

/// A role for whom tokens are made.
pub const ANA: &str = "ana@example.org";
/// A role with a password of its own.
pub const APP: &str = "app";
/// Its password.
pub const APP_PASSWORD: &str = "pencil, as in the RFC";
/// Name under which endpoints are reached where a domain is set.
pub const DOMAIN: &str = "db.example.org";

/// What the proxy is told.
pub struct Gate {
    lab: Arc<Lab>,
    tokens: Mutex<HashMap<String, TokenIdentity>>,
    roles: Mutex<HashMap<String, RoleLogin>>,
    /// Calls that were made, for those that must not be.
    pub connects: AtomicUsize,
    pub repairs: AtomicUsize,
    pub made: AtomicUsize,
    pub max_connections: AtomicUsize,
    /// What `connect` answers, where it is not to connect.
    pub refusal: Mutex<Option<ConnectError>>,
    pub native_login: Mutex<bool>,
    /// Connections that have not ended.
    pub open: Arc<AtomicUsize>,
}

/// Counts a connection until it is dropped.
pub struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gatekeeper for Gate {
    type Guard = Guard;

    async fn route(&self, selector: &Selector) -> Result<Option<Route>, Trouble> {
        let branch = match selector {
            Selector::Uid(uid) => uid.strip_prefix("ep-").unwrap_or_default().to_owned(),
            Selector::Name { project, branch, .. } if project == "shop" => branch.clone(),
            Selector::Name { .. } => return Ok(None),
        };
        let known = self.lab.engine.keys().unwrap().contains(&key(&branch));
        Ok(known.then(|| Route {
            endpoint: format!("ep-{branch}"),
            name: format!("shop/{branch}"),
            branch,
            max_connections: self.max_connections.load(Ordering::SeqCst),
            native_login: *self.native_login.lock().unwrap(),
        }))
    }

    async fn check_token(&self, token: &str) -> Result<Option<TokenIdentity>, Trouble> {
        Ok(self.tokens.lock().unwrap().get(token).cloned())
    }

    async fn may_use(&self, identity: &TokenIdentity, _route: &Route) -> Result<bool, Trouble> {
        Ok(identity.principal.name == ANA || identity.endpoint.is_some())
    }

    async fn known_login(&self, _route: &Route, role: &str) -> Result<Option<RoleLogin>, Trouble> {
        Ok(self.roles.lock().unwrap().get(role).cloned())
    }

    async fn role_login(&self, _route: &Route, role: &str) -> Result<RoleLogin, Trouble> {
        Ok(self.roles.lock().unwrap().get(role).cloned().unwrap_or(RoleLogin::Unknown))
    }

    async fn make_role(&self, _route: &Route, _identity: &TokenIdentity) -> Result<RoleLogin, Trouble> {
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(RoleLogin::Unknown)
    }

    async fn connect(&self, route: &Route) -> Result<(UnixStream, Guard), ConnectError> {
        self.connects.fetch_add(1, Ordering::SeqCst);
        if let Some(refusal) = self.refusal.lock().unwrap().clone() {
            return Err(refusal);
        }
        let (lab, branch) = (Arc::clone(&self.lab), route.branch.clone());
        let socket = lab.engine.socket_dir(&key(&branch)).join(".s.PGSQL.5432");
        if !matches!(self.lab.engine.state(&key(&branch)), Ok(ComputeState::Running { .. })) {
            tokio::task::spawn_blocking(move || lab.start(&branch)).await.unwrap();
        }
        let stream =
            UnixStream::connect(socket).await.map_err(|e| ConnectError::CannotStart(e.to_string()))?;
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok((stream, Guard(Arc::clone(&self.open))))
    }

    async fn backend_password(&self, route: &Route, role: &str) -> Result<Secret, Trouble> {
        Ok(Secret::new(backend_password(&route.branch, role)))
    }

    async fn repair_password(&self, route: &Route, role: &str) -> Result<(), Trouble> {
        self.repairs.fetch_add(1, Ordering::SeqCst);
        let client = self.lab.connect(&route.branch).await;
        let password = backend_password("main", role);
        run(&client, &format!("ALTER ROLE \"{role}\" PASSWORD '{password}'")).await;
        Ok(())
    }
}

fn identity(name: &str) -> RoleLogin {
    RoleLogin::Identity { name: name.to_owned(), kind: IdentityType::User }
}

/// The same on all branches, since children inherit it here.
fn backend_password(_branch: &str, role: &str) -> String {
    format!("known to the daemon alone: {role}")
}

/// The proxy with all that is behind it.
pub struct Door {
    pub lab: Arc<Lab>,
    pub proxy: Arc<Proxy<Gate>>,
    /// The listener that stands for no endpoint.
    pub anywhere: SocketAddr,
    /// The listener of `ep-main`.
    pub main: SocketAddr,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Door {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // Logins under way live on threads of the proxy's own, and hold the lab; the last to let it go
        // removes it, which must not be the end of the process.
        let begin = std::time::Instant::now();
        while Arc::strong_count(&self.proxy) > 1 && begin.elapsed() < std::time::Duration::from_secs(5) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Door {
    pub async fn new() -> Door {
        Door::with(Patience::default()).await
    }

    /// A door to branch `main`, which runs and has roles.
    pub async fn with(patience: Patience) -> Door {
        let lab = Arc::new(Lab::with_main());
        let client = lab.connect("main").await;
        let password = backend_password("main", ANA);
        run(
            &client,
            &format!(
                "CREATE ROLE \"{ANA}\" LOGIN REPLICATION PASSWORD '{password}'; \
                 CREATE ROLE {APP} LOGIN PASSWORD '{APP_PASSWORD}'; CREATE ROLE idle NOLOGIN; \
                 GRANT ALL ON SCHEMA public TO \"{ANA}\", {APP}; GRANT pg_checkpoint TO \"{ANA}\""
            ),
        )
        .await;
        let roles = [
            (ANA, identity(ANA)),
            (APP, RoleLogin::Password),
            ("idle", RoleLogin::NoLogin),
            ("ghost@example.org", identity("ghost@example.org")),
        ];
        let gate = Gate {
            lab: Arc::clone(&lab),
            tokens: Mutex::default(),
            roles: Mutex::new(roles.into_iter().map(|(name, login)| (name.to_owned(), login)).collect()),
            connects: AtomicUsize::new(0),
            repairs: AtomicUsize::new(0),
            made: AtomicUsize::new(0),
            max_connections: AtomicUsize::new(1000),
            refusal: Mutex::default(),
            native_login: Mutex::new(false),
            open: Arc::default(),
        };
        let keys = lab.path.join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        let certificates = Arc::new(Certificates::own(&keys, Some(DOMAIN.to_owned())).unwrap());
        let proxy = Proxy::new(gate, certificates, patience).unwrap();
        let anywhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let main = TcpListener::bind((Ipv4Addr::new(127, 64, 7, 1), 0)).await.unwrap();
        let (anywhere_at, main_at) = (anywhere.local_addr().unwrap(), main.local_addr().unwrap());
        let at_main = Arc::clone(&proxy);
        let tasks = vec![
            tokio::spawn(Arc::clone(&proxy).listen(anywhere)),
            tokio::spawn(async move {
                loop {
                    let (client, _) = main.accept().await.unwrap();
                    at_main.serve(client, Some("ep-main".to_owned()));
                }
            }),
        ];
        Door { lab, proxy, anywhere: anywhere_at, main: main_at, tasks }
    }

    pub fn gate(&self) -> &Gate {
        self.proxy.gatekeeper()
    }

    /// A token that speaks for `principal`, on one endpoint or all.
    pub fn token(&self, token: &str, principal: &str, endpoint: Option<&str>) {
        let who = TokenIdentity {
            principal: Principal { name: principal.to_owned(), kind: PrincipalKind::Human },
            group: None,
            endpoint: endpoint.map(str::to_owned),
            token_id: token.to_owned(),
        };
        self.gate().tokens.lock().unwrap().insert(token.to_owned(), who);
    }

    /// How Ana reaches `main` by its own address, with a token for it.
    pub fn config(&self) -> Config {
        self.token("good", ANA, Some("ep-main"));
        let mut config = Config::new();
        config.host(self.main.ip().to_string()).port(self.main.port());
        config.user(ANA).password("good").dbname("postgres");
        config
    }

    /// TLS that trusts the home's own authority and nobody else, and checks names.
    pub fn tls(&self) -> MakeRustlsConnect {
        MakeRustlsConnect::new(self.client_config())
    }

    pub fn client_config(&self) -> ClientConfig {
        let (pem, _) = self.proxy.certificates().authority().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    pub async fn connect(&self, config: &Config) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = config.connect(self.tls()).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The SQLSTATE and message that a login ends with.
    pub async fn refusal(&self, config: &Config) -> (String, String) {
        match self.connect(config).await {
            Ok(_) => panic!("let in"),
            Err(error) => {
                let db = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
                assert_eq!(db.severity(), "FATAL");
                (db.code().code().to_owned(), db.message().to_owned())
            }
        }
    }
}
