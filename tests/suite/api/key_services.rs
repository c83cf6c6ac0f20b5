//! Sign-in services that serve a set of public keys: late, hanging, failing, or from another address.

use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Redirect},
    routing::get,
};
use nix::sys::signal::Signal;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::watch,
    time::{Instant, sleep},
};

use super::key_sets::{JWKS, LIST, asked, by_rsa, jwks};
use crate::support::{
    TestDatabase,
    api::Api,
    port::Port,
    product::{Service, eventually},
};

/// A sign-in service: it answers with its keys, or lets whoever asks wait.
struct SignIn {
    url: String,
    hangs: watch::Sender<bool>,
    asked: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
}

impl SignIn {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let sign_in = Self {
            url: format!("http://{}/jwks.json", listener.local_addr().unwrap()),
            hangs: watch::Sender::new(false),
            asked: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
        };
        let state = (
            sign_in.hangs.subscribe(),
            sign_in.asked.clone(),
            sign_in.at_once.clone(),
            sign_in.most_at_once.clone(),
        );
        let routes = Router::new()
            .route("/jwks.json", get(Self::answer))
            .with_state(state);
        tokio::spawn(async { axum::serve(listener, routes).await });
        sign_in
    }

    #[allow(clippy::type_complexity, reason = "the one place of it")]
    async fn answer(
        State((mut hangs, asked, at_once, most_at_once)): State<(
            watch::Receiver<bool>,
            Arc<AtomicUsize>,
            Arc<AtomicUsize>,
            Arc<AtomicUsize>,
        )>,
    ) -> impl IntoResponse {
        asked.fetch_add(1, SeqCst);
        most_at_once.fetch_max(at_once.fetch_add(1, SeqCst) + 1, SeqCst);
        let _gone = scopeguard(at_once);
        hangs.wait_for(|hangs| !hangs).await.unwrap();
        JWKS
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

/// Counts one less when it is dropped, also when the one who asked has gone.
fn scopeguard(count: Arc<AtomicUsize>) -> impl Drop {
    struct Less(Arc<AtomicUsize>);
    impl Drop for Less {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    Less(count)
}

/// Answers every request by sending it on to `url`; where it is.
async fn redirecting_to(url: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let routes = Router::new().fallback(async move || Redirect::temporary(&url));
    tokio::spawn(async { axum::serve(listener, routes).await });
    port
}

/// Keys by HTTPS at `localhost`, from a CA in `ca.pem` of this directory; and the port. Killed when it is dropped.
async fn keys_by_https(dir: &Path) -> (Child, Port) {
    let certificate = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost".split(' '))
        .args("-addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out ca.pem".split(' '))
        .current_dir(dir)
        .output()
        .await
        .unwrap();
    assert!(certificate.status.success(), "{certificate:?}");
    let answer = format!(
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{JWKS}",
        JWKS.len()
    );
    fs::write(dir.join("jwks.json"), answer).unwrap();
    let held = Port::reserve();
    let server = Command::new("openssl")
        .args([
            "s_server", "-HTTP", "-cert", "ca.pem", "-key", "key.pem", "-accept",
        ])
        .arg(held.number.to_string())
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the keys are served", async || {
        TcpStream::connect(("127.0.0.1", held.number)).await.is_ok()
    })
    .await;
    (server, held)
}

#[tokio::test]
async fn redirect_is_followed_to_https_on_the_same_host_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, held) = keys_by_https(dir.path()).await;
    let plain = SignIn::start().await;
    let https = format!("https://localhost:{}/jwks.json", held.number);
    let ca = dir.path().join("ca.pem");
    let to_https = redirecting_to(https.clone()).await;
    let to_http = redirecting_to(plain.url.clone()).await;
    let twice = redirecting_to(format!("http://localhost:{to_https}/jwks.json")).await;
    for (first, status) in [
        (https.clone(), 200),
        (format!("http://localhost:{to_https}/jwks.json"), 200),
        (format!("http://127.0.0.1:{to_https}/jwks.json"), 401),
        (format!("http://127.0.0.1:{to_http}/jwks.json"), 401),
        (format!("http://localhost:{twice}/jwks.json"), 401),
    ] {
        let env = [
            jwks(&first).as_slice(),
            &[("SSL_CERT_FILE", ca.to_str().unwrap())],
        ]
        .concat();
        let api = Api::with(&env).await;
        let answer = api.get(LIST, &by_rsa("rsa")).await;
        assert_eq!(answer.status, status, "{first}: {}", answer.text());
    }
    assert_eq!(plain.asked(), 0, "nobody was led there");
}

#[tokio::test]
async fn log_tells_nothing_of_a_key_sets_url_but_that_it_fails() {
    let db = TestDatabase::new().await;
    let elsewhere = redirecting_to("http://127.0.0.1:1/?token=hunter4".to_owned()).await;
    let failing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async { axum::serve(listener, Router::new()).await });
        port
    };
    for port in [elsewhere, failing, 1] {
        let url = format!("http://hunter1:hunter2@127.0.0.1:{port}/jwks.json?key=hunter3");
        let env = [jwks(&url).as_slice(), &[("RUST_LOG", "trace")]].concat();
        let (mut service, log) = Service::logged(&db.url, "api", &env);
        service.ready().await;
        asked(&service, &by_rsa("rsa"))
            .await
            .assert_problem(401, &url);
        service.signal(Signal::SIGTERM);
        service.ends_within(Duration::from_secs(20)).await;
        let log = fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("auth.jwks"), "{log}");
        assert!(!log.contains("hunter"), "{log}");
    }
}

#[tokio::test]
async fn token_with_a_known_key_is_answered_at_once_while_the_set_is_read() {
    let sign_in = SignIn::start().await;
    let api = Arc::new(Api::with(&jwks(&sign_in.url)).await);
    let known = by_rsa("rsa");
    assert_eq!(api.get(LIST, &known).await.status, 200);
    sign_in.hangs.send_replace(true);
    let asked = sign_in.asked();
    let unknown = tokio::spawn({
        let api = api.clone();
        // The set was read a moment ago: an unknown key is no reason to read it again before five seconds have passed.
        async move {
            loop {
                let sent = Instant::now();
                let answer = api.get(LIST, &by_rsa("unknown")).await;
                answer.assert_problem(401, "an unknown key");
                if sent.elapsed() > Duration::from_secs(2) {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
    });
    eventually("the set is being read", async || sign_in.asked() > asked).await;

    let mut took = Vec::new();
    for _ in 0..9 {
        let sent = Instant::now();
        assert_eq!(api.get(LIST, &known).await.status, 200);
        took.push(sent.elapsed());
    }

    assert_eq!(sign_in.at_once.load(SeqCst), 1, "it is still being read");
    took.sort();
    // The middle one: what a busy machine does to one request is not ours.
    assert!(took[4] < Duration::from_millis(100), "{took:?}");
    unknown.await.unwrap();
}

#[tokio::test]
async fn tokens_with_unknown_keys_have_the_set_read_once_in_a_while_and_never_twice_at_once() {
    let sign_in = SignIn::start().await;
    let api = Arc::new(Api::with(&jwks(&sign_in.url)).await);
    sign_in.hangs.send_replace(true);
    let flood = || {
        let api = api.clone();
        tokio::spawn(async move { api.get(LIST, &by_rsa("unknown")).await })
    };
    let began = Instant::now();
    for _ in 0..3 {
        let flood: Vec<_> = (0..20).map(|_| flood()).collect();
        for answer in flood {
            answer.await.unwrap().assert_problem(401, "unknown");
        }
    }

    let most = usize::try_from(began.elapsed().as_secs() / 5).unwrap() + 1;
    assert!(sign_in.asked() <= most, "{} of {most}", sign_in.asked());
    assert_eq!(sign_in.most_at_once.load(SeqCst), 1);
    // Once it answers again, keys are known again.
    sign_in.hangs.send_replace(false);
    eventually("the key is known", async || {
        api.get(LIST, &by_rsa("rsa")).await.status == 200
    })
    .await;
}
