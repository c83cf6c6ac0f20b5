//! The way to Postgres, cut at the worst moment: a statement is committed, and its reply is lost.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A proxy that hangs up in place of passing a reply on.
pub struct CutProxy {
    /// The way through it.
    pub url: String,
    cuts: Arc<Mutex<Cut>>,
}

#[derive(Default)]
struct Cut {
    request: Vec<u8>,
    reply: Vec<u8>,
    left: u32,
}

impl CutProxy {
    pub async fn to(url: &str) -> Self {
        let (head, address) = url.rsplit_once('@').unwrap();
        let (server, rest) = address.split_once('/').unwrap();
        let server = server.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::<Mutex<Cut>>::default();
        let all = cuts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(carry(client, server, all.clone()));
            }
        });
        Self {
            url: format!("{head}@127.0.0.1:{port}/{rest}"),
            cuts,
        }
    }

    /// The next reply that contains `reply` is lost, on a connection that has sent `request` meanwhile, and the connection with
    /// it. What Postgres did, it did.
    pub fn cut(&self, request: &str, reply: &str) {
        *self.cuts.lock().unwrap() = Cut {
            request: request.as_bytes().to_vec(),
            reply: reply.as_bytes().to_vec(),
            left: 1,
        };
    }

    /// Whether the reply was lost.
    pub fn has_cut(&self) -> bool {
        self.cuts.lock().unwrap().left == 0
    }
}

async fn carry(mut client: TcpStream, mut server: TcpStream, cuts: Arc<Mutex<Cut>>) {
    let has_asked = AtomicBool::new(false);
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            if cuts.lock().unwrap().is_asked_by(&buffer[..n]) {
                has_asked.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let replies = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            let is_asked = has_asked.load(Ordering::SeqCst);
            if is_asked && cuts.lock().unwrap().takes(&buffer[..n]) {
                return;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = replies => {}
        () = requests => {}
    }
}

impl Cut {
    fn is_asked_by(&self, request: &[u8]) -> bool {
        self.left > 0 && contains(request, &self.request)
    }

    fn takes(&mut self, reply: &[u8]) -> bool {
        let is_it = self.left > 0 && contains(reply, &self.reply);
        self.left -= u32::from(is_it);
        is_it
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
