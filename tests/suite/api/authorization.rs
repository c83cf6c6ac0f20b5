//! Who may do what: every route of the API by every kind of caller. What belongs to another organization is not
//! there, and its answer is the answer to what does not exist.

use std::collections::BTreeSet;

use jsonwebtoken::get_current_timestamp;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Api, SECRET, but, claims, signed_with, token},
    app::App,
    product,
};

/// Who may use a route.
#[derive(Clone, Copy)]
enum OpenTo {
    /// The organization's viewers and admins, and operators.
    Readers,
    /// The organization's admins, and operators.
    Admins,
    Operators,
}

/// Method, path, who may use it, and what they are answered.
const ROUTES: [(&str, &str, OpenTo, u16); 15] = {
    use OpenTo::{Admins, Operators, Readers};
    [
        ("POST", "/orgs/{orgId}/retention/purge", Admins, 202),
        ("GET", "/orgs/{orgId}/retention/policy", Readers, 200),
        ("GET", "/orgs/{orgId}/retention/preview", Readers, 200),
        ("GET", "/orgs/{orgId}/retention/runs", Readers, 200),
        ("GET", "/orgs/{orgId}/environments", Readers, 200),
        (
            "GET",
            "/orgs/{orgId}/environments/{environmentId}",
            Readers,
            200,
        ),
        ("GET", "/orgs/{orgId}/incidents", Readers, 200),
        ("GET", "/orgs/{orgId}/incidents/{incidentId}", Readers, 200),
        ("GET", "/orgs/{orgId}/drift/dashboard", Readers, 200),
        ("GET", "/retention/runs", Operators, 200),
        ("GET", "/retention/runs/{runId}", Operators, 200),
        ("GET", "/retention/runs/{runId}/events", Readers, 200),
        ("POST", "/retention/runs/{runId}/replay", Operators, 202),
        ("POST", "/retention/runs/replay", Operators, 200),
        ("POST", "/retention/runs/{runId}/cancel", Operators, 200),
    ]
};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Caller {
    Unknown,
    Viewer,
    Admin,
    Stranger,
    Operator,
}

fn expected(open_to: OpenTo, caller: Caller, ok: u16) -> u16 {
    match (open_to, caller) {
        (_, Caller::Unknown) => 401,
        (_, Caller::Operator)
        | (OpenTo::Readers, Caller::Viewer | Caller::Admin)
        | (OpenTo::Admins, Caller::Admin) => ok,
        (OpenTo::Readers | OpenTo::Admins, Caller::Stranger) => 404,
        (OpenTo::Admins, Caller::Viewer) | (OpenTo::Operators, _) => 403,
    }
}

/// One of each thing that a path can name.
#[derive(Clone, Copy)]
struct Things {
    org: Uuid,
    env: Uuid,
    incident: Uuid,
    /// A run that is over, so that it can be replayed and its events end.
    ended: Uuid,
    live: Uuid,
}

impl Things {
    async fn of_new_org(api: &Api) -> Self {
        let (pool, app) = (&api.db.pool, App::on(&api.db.pool));
        let org = app.org_with_expired(3).await;
        let env = app.env(org).await;
        app.check(org, env, "1 hour", &["wf_1"]).await;
        let incident = app.incident(org, env, "closed", Some("1 day")).await;
        app.payload(incident).await;
        let ended = product::enqueue(pool, org).await;
        let cancelled = product::run(&api.db.url, &["runs", "cancel", &ended.to_string()]).await;
        assert!(cancelled.status.success(), "{cancelled:?}");
        Self {
            org,
            env,
            incident,
            ended,
            live: product::enqueue(pool, org).await,
        }
    }

    fn that_do_not_exist() -> Self {
        let new = Uuid::new_v4;
        Self {
            org: new(),
            env: new(),
            incident: new(),
            ended: new(),
            live: new(),
        }
    }

    fn path(self, template: &str) -> String {
        let run = if template.ends_with("/cancel") {
            self.live
        } else {
            self.ended
        };
        template
            .replace("{orgId}", &self.org.to_string())
            .replace("{environmentId}", &self.env.to_string())
            .replace("{incidentId}", &self.incident.to_string())
            .replace("{runId}", &run.to_string())
    }

    fn ids(self) -> [String; 5] {
        [self.org, self.env, self.incident, self.ended, self.live].map(|id| id.to_string())
    }
}

fn callers(home: Uuid, other: Uuid) -> Vec<(&'static str, Caller, Option<String>)> {
    let now = get_current_timestamp();
    let admin = || claims("admin", Some(home));
    let sign = |claims| Some(signed_with(SECRET.as_bytes(), &claims));
    let unknown = [
        ("no token", None),
        ("garbage", Some("garbage".to_owned())),
        ("expired", sign(but(admin(), "exp", json!(now - 60)))),
        ("not yet valid", sign(but(admin(), "nbf", json!(now + 60)))),
        (
            "wrong audience",
            sign(but(admin(), "aud", json!("billing"))),
        ),
        (
            "wrong issuer",
            sign(but(admin(), "iss", json!("https://evil.example"))),
        ),
        (
            "wrong signature",
            Some(signed_with(
                b"another secret of thirty-two bytes!!",
                &admin(),
            )),
        ),
    ];
    let known = [
        ("viewer", Caller::Viewer, token("viewer", Some(home))),
        (
            "another's admin",
            Caller::Stranger,
            token("admin", Some(other)),
        ),
        (
            "another's viewer",
            Caller::Stranger,
            token("viewer", Some(other)),
        ),
        ("admin", Caller::Admin, token("admin", Some(home))),
        ("operator", Caller::Operator, token("operator", None)),
    ];
    let unknown = unknown.map(|(name, token)| (name, Caller::Unknown, token));
    let known = known.map(|(name, caller, token)| (name, caller, Some(token)));
    unknown.into_iter().chain(known).collect()
}

async fn ask(api: &Api, method: &str, path: &str, token: Option<&str>) -> Answer {
    let request = api.request(method, path);
    crate::support::api::answer(match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    })
    .await
}

#[tokio::test]
async fn every_route_is_open_to_whom_the_contract_says_and_to_nobody_else() {
    let api = Api::start().await;
    let home = Things::of_new_org(&api).await;
    let other = Things::of_new_org(&api).await;
    for (name, caller, token) in callers(home.org, other.org) {
        for (method, template, open_to, ok) in ROUTES {
            let what = format!("{name}: {method} {template}");
            let answer = ask(&api, method, &home.path(template), token.as_deref()).await;
            let status = expected(open_to, caller, ok);
            if status >= 400 {
                answer.assert_problem(status, &what);
            } else {
                assert_eq!(answer.status, status, "{what}: {}", answer.text());
            }
            let text = answer.text();
            if status >= 400 {
                assert!(
                    !home.ids().iter().any(|id| text.contains(id)),
                    "{what}: {text}"
                );
            }
            if caller != Caller::Operator {
                assert!(
                    !other.ids().iter().any(|id| text.contains(id)),
                    "{what}: {text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn foreign_things_are_answered_byte_for_byte_as_what_does_not_exist() {
    let api = Api::start().await;
    let home = Things::of_new_org(&api).await;
    let stranger = App::on(&api.db.pool).org("pro").await;
    for role in ["viewer", "admin"] {
        let token = token(role, Some(stranger));
        for (method, template, ..) in ROUTES {
            let there = ask(&api, method, &home.path(template), Some(&token)).await;
            let nowhere = Things::that_do_not_exist().path(template);
            let nowhere = ask(&api, method, &nowhere, Some(&token)).await;
            assert_eq!(told(there), told(nowhere), "{role}: {method} {template}");
        }
    }
}

/// All of an answer but the request's id and the time.
fn told(mut answer: Answer) -> (u16, Vec<(String, String)>, String) {
    answer.headers.remove("x-request-id");
    answer.headers.remove("date");
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    (answer.status, headers, answer.text())
}

#[tokio::test]
async fn foreign_things_are_not_there_under_ones_own_organization_either() {
    let api = Api::start().await;
    let home = Things::of_new_org(&api).await;
    let other = Things::of_new_org(&api).await;
    let mixed = Things {
        org: home.org,
        ..other
    };
    let nowhere = Things {
        org: home.org,
        ..Things::that_do_not_exist()
    };
    for token in [token("admin", Some(home.org)), token("operator", None)] {
        for template in [
            "/orgs/{orgId}/environments/{environmentId}",
            "/orgs/{orgId}/incidents/{incidentId}",
        ] {
            let answer = api.get(&mixed.path(template), &token).await;
            answer.assert_problem(404, template);
        }
        // A cursor that names another organization's thing reads no more than one that names nothing.
        for (list, pick) in [("environments", other.env), ("incidents", other.incident)] {
            let list = format!("/orgs/{}/{list}", home.org);
            let theirs = api.get(&format!("{list}?cursor={pick}"), &token).await;
            let nothing = format!("{list}?cursor={}", nowhere.env);
            assert_eq!(
                told(theirs),
                told(api.get(&nothing, &token).await),
                "{list}"
            );
        }
    }
}

#[tokio::test]
async fn documented_routes_are_those_of_the_matrix_and_all_are_there() {
    let api = Api::start().await;
    let document = ask(&api, "GET", "/openapi.json", None).await.json();
    let documented: BTreeSet<String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let in_matrix: BTreeSet<String> = ROUTES
        .iter()
        .map(|(method, path, ..)| format!("{method} {path}"))
        .collect();
    assert_eq!(documented, in_matrix);
    let nobody = Things::that_do_not_exist();
    for (method, template, ..) in ROUTES {
        // A route asks who calls; the fallback for unknown paths and methods does not.
        let answer = ask(&api, method, &nobody.path(template), None).await;
        answer.assert_problem(401, template);
    }
}
