//! What becomes of a body that nobody read to its end?
//!
//! HTTP/2 ends the one stream. Over HTTP/1.1 a request that is refused early leaves a client that still sends, and what
//! nobody takes from it makes the system reset the connection, mostly before the client has read its answer. So what is
//! left of a body is read on and thrown away: a little of it before the answer and beside it, which keeps the connection
//! good for more ([`Arriving`], [`Unread`]), and then more of it after the answer, when the connection ends
//! ([`Lingering`]). All of it within bounds: whoever sends a lot, or slowly, is cut off.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use tokio::time::Sleep;

use super::{Activity, Arc};

/// So much of a body is thrown away to keep its connection, for so long.
const DISCARDED_BYTES_MAX: u64 = 4 << 20;
const DISCARDING_MAX: Duration = Duration::from_secs(1);

/// So much of what a client sends is thrown away once its connection has ended, for so long.
const LINGERING_BYTES_MAX: usize = 32 << 20;
const LINGERING_MAX: Duration = Duration::from_secs(3);

/// A request's body, which over HTTP/1.1 leaves what of it was not read to its connection.
pub struct Arriving {
    /// There until this is dropped.
    body: Option<Incoming>,
    /// Where to leave the rest; `None` where nothing can be left.
    connection: Option<Arc<Activity>>,
    /// Whether its client waits to be told to send it.
    is_held_back: bool,
}

impl Arriving {
    /// The same request with a body that leaves its rest to `connection`.
    pub(super) fn of(request: Request<Incoming>, connection: &Arc<Activity>) -> Request<Arriving> {
        let may_leave = request.version() < Version::HTTP_2 && !request.body().is_end_stream();
        let connection = may_leave.then(|| Arc::clone(connection));
        let is_held_back = may_leave && request.headers().contains_key(EXPECT);
        request.map(|body| Arriving { body: Some(body), connection, is_held_back })
    }

    /// Whether it may leave a rest.
    pub(super) fn may_leave(&self) -> bool {
        self.connection.is_some()
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // To ask for it is to tell the client to send.
        self.is_held_back = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.connection = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let (Some(connection), Some(body)) = (self.connection.take(), self.body.take())
            && !self.is_held_back
            && !body.is_end_stream()
        {
            connection.unread.leave(body);
        }
    }
}

/// The rest of a body: at most one on a connection, since HTTP/1.1 brings one request at a time.
#[derive(Default)]
pub(super) struct Unread(Mutex<Option<Incoming>>);

impl Unread {
    fn leave(&self, body: Incoming) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// Takes what was left, to throw it away.
    pub(super) fn discard(&self) -> Option<Discarding> {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let is_endless = body.size_hint().lower() > DISCARDED_BYTES_MAX;
        Some(Discarding { is_endless, rest: Box::pin(rest_of(body)), turns: TURNS })
    }
}

/// What came with the head is here after so many more turns of the connection.
const TURNS: usize = 2;

/// A body that is being thrown away.
pub(super) struct Discarding {
    /// Whether it is longer than what is thrown away to keep a connection.
    pub(super) is_endless: bool,
    rest: Pin<Box<dyn Future<Output = ()> + Send>>,
    turns: usize,
}

impl Discarding {
    /// Ready when the answer may be sent: when the body is at its end, or has had its turns, with the rest of it in a task
    /// beside the answer.
    pub(super) fn poll_begun(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.is_endless || self.rest.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if self.turns > 0 {
            self.turns -= 1;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let rest = std::mem::replace(&mut self.rest, Box::pin(std::future::ready(())));
        tokio::spawn(tokio::time::timeout(DISCARDING_MAX, rest));
        Poll::Ready(())
    }
}

async fn rest_of(mut body: Incoming) {
    let mut left = DISCARDED_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// A connection that goes on reading for a while after it has said its last word, unless it was told to go, which happens
/// between requests: a client that had not been read to the end would be reset, and might lose the answer.
pub(super) struct Lingering<I> {
    io: I,
    activity: Arc<Activity>,
    /// From the last word on.
    end: Option<Ending>,
}

struct Ending {
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl<I> Lingering<I> {
    pub(super) fn new(io: I, activity: &Arc<Activity>) -> Lingering<I> {
        Lingering { io, activity: Arc::clone(activity), end: None }
    }
}

impl<I: Read + Unpin> Read for Lingering<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: Read + Write + Unpin> Write for Lingering<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Lingering { io, activity, end } = &mut *self;
        let end = match end {
            Some(end) => end,
            None => {
                ready!(Pin::new(&mut *io).poll_shutdown(context))?;
                let until = Box::pin(tokio::time::sleep(LINGERING_MAX));
                end.insert(Ending { left: LINGERING_BYTES_MAX, until })
            }
        };
        if activity.is_told_to_go() || end.until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        loop {
            let mut buffer = ReadBuf::uninit(&mut space);
            let read = ready!(Pin::new(&mut *io).poll_read(context, buffer.unfilled()));
            let bytes = buffer.filled().len();
            // A client that has gone is no failure by now.
            if read.is_err() || bytes == 0 || bytes > end.left {
                return Poll::Ready(Ok(()));
            }
            end.left -= bytes;
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
