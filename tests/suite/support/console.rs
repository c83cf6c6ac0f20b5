//! The console of a service of this test's own, and who comes to it.

use uuid::Uuid;

use super::{
    TestDatabase,
    app::App,
    browser::Browser,
    client::{serve, token},
    product::Service,
    scene::Scene,
};

/// Somebody who is given a token.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    /// `oda`.
    Operator,
    /// `ada`.
    Admin(Uuid),
    /// `vic`.
    Viewer(Uuid),
}

impl Who {
    /// A token of theirs, for the API and for the sign-in form.
    pub async fn token(self) -> String {
        token(&self.claims()).await
    }

    /// The token of a sign-in link of theirs.
    pub async fn link(self) -> String {
        self.link_for("1h").await
    }

    /// That of a link to a session that lasts so long.
    pub async fn link_for(self, session: &str) -> String {
        let mut claims = self.claims();
        claims.extend(["--ttl", session, "--link"].map(str::to_owned));
        let link = token(&claims).await;
        link.split_once("token=").unwrap().1.to_owned()
    }

    fn claims(self) -> Vec<String> {
        let (sub, role, org) = match self {
            Self::Operator => ("oda", "operator", None),
            Self::Admin(org) => ("ada", "admin", Some(org)),
            Self::Viewer(org) => ("vic", "viewer", Some(org)),
        };
        let mut claims = ["--sub", sub, "--role", role].map(str::to_owned).to_vec();
        claims.extend(
            org.iter()
                .flat_map(|org| ["--org".to_owned(), org.to_string()]),
        );
        claims
    }
}

/// A service with its console.
pub struct Console {
    pub db: TestDatabase,
    pub app: App,
    pub service: Service,
}

impl Console {
    /// One that purges nothing.
    pub async fn start() -> Self {
        Self::serving("api", &[]).await
    }

    /// One that purges, in small batches.
    pub async fn working() -> Self {
        Self::serving("api,worker", &[("DRIFT_RETENTION_PURGE__BATCH_SIZE", "50")]).await
    }

    /// One that finds everything there when it starts, with these words wherever there are any.
    pub async fn showing(words: &str) -> (Self, Scene) {
        let db = TestDatabase::new().await;
        let scene = Scene::of(&db, words).await;
        (Self::on(db, "api", &[]).await, scene)
    }

    /// One with these roles and settings.
    pub async fn serving(roles: &str, env: &[(&str, &str)]) -> Self {
        Self::on(TestDatabase::new().await, roles, env).await
    }

    /// One on this database.
    pub async fn on(db: TestDatabase, roles: &str, env: &[(&str, &str)]) -> Self {
        Self {
            service: serve(&db, roles, env).await,
            app: App::on(&db.pool),
            db,
        }
    }

    /// Where the console is.
    pub fn origin(&self) -> String {
        format!("http://127.0.0.1:{}", self.service.port)
    }

    /// The address of a page.
    pub fn url(&self, path: &str) -> String {
        self.origin() + path
    }

    /// A browser in which they have just signed in.
    pub async fn open_for(&self, who: Who) -> Browser {
        let browser = Browser::open(1440, 900).await;
        self.sign_in(&browser, who).await;
        browser
    }

    /// Signs in by link.
    pub async fn sign_in(&self, browser: &Browser, who: Who) {
        browser
            .go(&self.url(&format!("/signin?token={}", who.link().await)))
            .await;
        browser.click_button("Sign in").await;
        browser.wait_for_text("Sign out").await;
    }
}

/// Every page of the console, once, by what it shows. Those of a thing that is not there are left out.
pub fn pages(org: Option<Uuid>, envs: &[Uuid], incidents: &[Uuid], runs: &Runs) -> Vec<String> {
    let mut pages: Vec<String> = [
        "/signin",
        "/console/overview",
        "/console/overdue",
        "/console/unresolved",
        "/console/orgs",
        "/console/orgs?search=nobody",
        "/console/runs",
        "/console/runs?status=failed",
        "/console/runs/replay?status=failed",
        "/console/actions",
    ]
    .map(str::to_owned)
    .into();
    if let Some(org) = org {
        let path = format!("/console/orgs/{org}");
        for page in [
            "environments",
            "incidents",
            "incidents?status=closed",
            "dashboard",
            "retention",
            "retention/purge",
        ] {
            pages.push(format!("{path}/{page}"));
        }
        pages.extend(envs.iter().map(|env| format!("{path}/environments/{env}")));
        pages.extend(
            incidents
                .iter()
                .map(|incident| format!("{path}/incidents/{incident}")),
        );
        for tab in ["summary", "timeline", "approvals"] {
            pages.extend(
                incidents
                    .first()
                    .map(|incident| format!("{path}/incidents/{incident}?tab={tab}")),
            );
        }
    }
    pages.extend(runs.ended.iter().map(|run| format!("/console/runs/{run}")));
    pages.extend(
        runs.failed
            .map(|run| format!("/console/runs/replay?run={run}")),
    );
    if let Some(live) = runs.live {
        pages.push(format!("/console/runs/{live}"));
        pages.push(format!("/console/runs/{live}/cancel"));
    }
    pages
}

/// Runs by what their pages offer.
#[derive(Debug, Default)]
pub struct Runs {
    /// Can be replayed.
    pub failed: Option<Uuid>,
    /// Can be cancelled.
    pub live: Option<Uuid>,
    /// Any that are over.
    pub ended: Vec<Uuid>,
}
