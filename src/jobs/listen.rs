//! A worker looks for deliveries when Postgres notifies it of a new one, and on a timer. The timer also finds deliveries that
//! send no notice: a retry that has become due, an orphan that was put back, and all of them while LISTEN is down.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use apalis_core::backend::ext::poll_strategy::{PollSnapshot, PollStrategy};
use futures::{StreamExt, channel::mpsc};
use sqlx::{PgPool, postgres::PgListener};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{CHANNEL, QUEUE};

/// How long a delivery without a notice can go unseen.
const TIMER: Duration = Duration::from_secs(1);
/// How long to wait before listening again after the connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

/// Joins notices and a timer, and swallows everything that has fired: one look finds all there is.
pub(super) struct Wakeups {
    timer: Interval,
    notices: mpsc::Receiver<()>,
}

impl PollStrategy for Wakeups {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut fired = false;
        while self.timer.poll_tick(cx).is_ready() {
            fired = true;
        }
        while let Poll::Ready(Some(())) = self.notices.poll_next_unpin(cx) {
            fired = true;
        }
        if fired {
            Poll::Ready(Some(()))
        } else {
            Poll::Pending
        }
    }
}

/// One LISTEN connection for all workers of the process, for as long as this lives.
pub(super) struct Notices {
    subscribers: tokio::sync::watch::Sender<()>,
    _listener: AbortOnDropHandle<()>,
}

impl Notices {
    pub(super) fn start(pool: PgPool) -> Self {
        let (subscribers, _) = tokio::sync::watch::channel(());
        let listener = tokio::spawn(listen(pool, subscribers.clone()));
        Self {
            subscribers,
            _listener: AbortOnDropHandle::new(listener),
        }
    }

    /// The wake-ups of one worker.
    pub(super) fn subscribe(&self) -> Wakeups {
        let (mut wake, notices) = mpsc::channel(1);
        let mut changes = self.subscribers.subscribe();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                // A full channel means that the worker is about to look anyway.
                if wake
                    .try_send(())
                    .is_err_and(|error| error.is_disconnected())
                {
                    return;
                }
            }
        });
        let mut timer = interval(TIMER);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Wakeups { timer, notices }
    }
}

async fn listen(pool: PgPool, subscribers: tokio::sync::watch::Sender<()>) {
    loop {
        if let Err(error) = forward(&pool, &subscribers).await {
            tracing::debug!(%error, "not listening for deliveries; the timer finds them");
        }
        sleep(RECONNECT).await;
    }
}

async fn forward(pool: &PgPool, subscribers: &tokio::sync::watch::Sender<()>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        if listener.recv().await?.payload().contains(QUEUE) {
            subscribers.send_replace(());
        }
    }
}
