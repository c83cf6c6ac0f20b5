//! The console of a service of this test's own, and who comes to it.

use std::sync::atomic::{AtomicU32, Ordering};

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
    /// A token of theirs, like no other of this test: two of one second would be the same, but for how long they are
    /// valid.
    pub async fn token(self) -> String {
        static MINTED: AtomicU32 = AtomicU32::new(0);
        let seconds = 600 + 7 * MINTED.fetch_add(1, Ordering::Relaxed);
        self.token_for(&format!("{seconds}s")).await
    }

    /// One that is valid so long.
    pub async fn token_for(self, ttl: &str) -> String {
        let (sub, role, org) = match self {
            Self::Operator => ("oda", "operator", None),
            Self::Admin(org) => ("ada", "admin", Some(org.to_string())),
            Self::Viewer(org) => ("vic", "viewer", Some(org.to_string())),
        };
        let mut claims = vec!["--sub", sub, "--role", role, "--ttl", ttl];
        if let Some(org) = &org {
            claims.extend(["--org", org]);
        }
        token(&claims).await
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
            .go(&self.url(&format!("/signin?token={}", who.token().await)))
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
