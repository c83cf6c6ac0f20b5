//! Ports for what the tests start and cannot ask for the one that the system gave it.

use std::{fs::File, net::TcpListener, path::Path};

use uuid::Uuid;

/// Below those that Linux gives to outgoing connections: it may give such a one away before whoever is started listens.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A free port on 127.0.0.1, no other test's for as long as this lives.
pub struct Port {
    pub number: u16,
    /// Locked; the system lets go of it whatever becomes of the test.
    _held: File,
}

impl Port {
    pub fn reserve() -> Self {
        let any = usize::from(Uuid::new_v4().as_fields().1) % PORTS.len();
        PORTS
            .skip(any)
            .chain(PORTS)
            .find_map(Self::hold)
            .expect("none of the ports is free")
    }

    fn hold(number: u16) -> Option<Self> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("port-{number}"));
        let held = File::create(path).expect("there is a place for what tests write");
        held.try_lock().ok()?;
        TcpListener::bind(("127.0.0.1", number)).ok()?;
        Some(Self {
            number,
            _held: held,
        })
    }
}
