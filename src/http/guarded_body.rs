//! A body that owns a guard. The guard is dropped with the body, after the body was sent, read or abandoned.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Frame, SizeHint};

/// A body, and the guard that is dropped with it.
#[derive(Debug)]
pub(super) struct GuardedBody<B, T> {
    body: B,
    _guard: T,
}

impl<B, T> GuardedBody<B, T> {
    pub(super) fn new(body: B, guard: T) -> Self {
        Self {
            body,
            _guard: guard,
        }
    }
}

impl<B: Body + Unpin, T: Unpin> Body for GuardedBody<B, T> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Calls a function when it is dropped.
pub(super) struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> OnDrop<F> {
    pub(super) fn new(call: F) -> Self {
        Self(call)
    }
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<F: FnMut()> fmt::Debug for OnDrop<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnDrop")
    }
}
