//! The network between a process and Postgres. Its address stays the same while the server's port changes. The lab can
//! cut it, slow it down, or let it swallow everything for a while.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// How the network treats data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Data arrives.
    Pass,
    /// Connections end, and new ones are closed at once.
    Cut,
    /// Neither data nor the end of a connection arrives. Everything arrives after the mode changes to `Pass`, as after
    /// lost packets.
    BlackHole,
    /// Data arrives later by this time.
    Delay(Duration),
}

/// One process's connections to Postgres. They end when the proxy is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens on a free port, and connects to the port that `server` holds at that time.
    pub(crate) async fn start(server: Arc<AtomicU16>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server.clone(), modes.clone()));
            }
        });
        Ok(Self {
            port,
            mode,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

/// Carries one connection until either side ends it or the network is cut.
async fn carry(client: TcpStream, server: Arc<AtomicU16>, mut mode: watch::Receiver<Mode>) {
    if !admit(&mut mode).await {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server.load(Ordering::SeqCst))).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, mode.clone()) => {}
        () = pump(from_server, to_client, mode.clone()) => {}
        () = until_cut(mode) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // The end of a connection waits as data does.
        if !admit(&mut mode).await || read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Waits until data may pass. Returns `false` if the network is cut.
async fn admit(mode: &mut watch::Receiver<Mode>) -> bool {
    loop {
        let present = *mode.borrow_and_update();
        match present {
            Mode::Pass => return true,
            Mode::Cut => return false,
            Mode::Delay(time) => {
                sleep(time).await;
                return true;
            }
            Mode::BlackHole => {
                if mode.changed().await.is_err() {
                    return false;
                }
            }
        }
    }
}

async fn until_cut(mut mode: watch::Receiver<Mode>) {
    // An error means that the proxy was dropped, which cuts the network too.
    let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> Arc<AtomicU16> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = peer.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        Arc::new(AtomicU16::new(port))
    }

    #[tokio::test]
    async fn what_a_black_hole_swallowed_arrives_once_it_passes_again() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut peer = TcpStream::connect(("127.0.0.1", proxy.port()))
            .await
            .unwrap();
        let mut answer = [0; 1];
        peer.write_all(b"a").await.unwrap();
        peer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"a");

        proxy.set(Mode::BlackHole);
        peer.write_all(b"b").await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(200), peer.read_exact(&mut answer));
        assert!(early.await.is_err());
        proxy.set(Mode::Pass);
        peer.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"b");
    }

    #[tokio::test]
    async fn cut_connection_ends_and_a_new_one_too() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut peer = TcpStream::connect(("127.0.0.1", proxy.port()))
            .await
            .unwrap();
        let mut answer = [0; 1];
        peer.write_all(b"a").await.unwrap();
        peer.read_exact(&mut answer).await.unwrap();
        proxy.set(Mode::Cut);
        assert_eq!(peer.read(&mut answer).await.unwrap_or(0), 0);
        let mut next = TcpStream::connect(("127.0.0.1", proxy.port()))
            .await
            .unwrap();
        assert_eq!(next.read(&mut answer).await.unwrap_or(0), 0);
    }
}
