//! What a refused request had still to say.
//!
//! A connection on which a body is still on its way is closed with the answer, and the answer may be lost with it: the client sees a broken
//! pipe in place of the problem. So a body of usual size is read away before the answer goes out.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::Request,
    http::header,
};
use bytes::Bytes;
use futures::{StreamExt, future::poll_fn, stream};

/// More than this is not read away: the client is told by the closed connection.
const MOST: usize = 8 << 20;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body, lent to whoever handles the request; what they leave of it stays here.
pub(crate) enum Unread {
    /// There is no body.
    Nothing,
    /// It is sent once it is asked for (`Expect: 100-continue`): a client that is refused is better not asked.
    NotSentYet,
    /// There is one.
    Lent(Lent),
}

type Lent = Arc<Mutex<BodyDataStream>>;

impl Unread {
    /// Lends the body of a request.
    pub(crate) fn lend(request: Request) -> (Request, Self) {
        if request.body().is_end_stream() {
            return (request, Self::Nothing);
        }
        if request.headers().contains_key(header::EXPECT) {
            return (request, Self::NotSentYet);
        }
        let (parts, body) = request.into_parts();
        let lent: Lent = Arc::new(Mutex::new(body.into_data_stream()));
        let reader = lent.clone();
        let body = Body::from_stream(stream::poll_fn(move |context| poll_next(&reader, context)));
        (Request::from_parts(parts, body), Self::Lent(lent))
    }

    /// Reads what was left, within bounds. False where something may be left still: then the connection is of no further use.
    pub(crate) async fn read_away(self) -> bool {
        let lent = match self {
            Self::Nothing => return true,
            Self::NotSentYet => return false,
            Self::Lent(lent) => lent,
        };
        let reading = async {
            let mut left = MOST;
            while let Some(piece) = poll_fn(|context| poll_next(&lent, context)).await {
                match piece.ok().and_then(|piece| left.checked_sub(piece.len())) {
                    Some(rest) => left = rest,
                    None => return false,
                }
            }
            true
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap_or(false)
    }
}

fn poll_next(lent: &Lent, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, axum::Error>>> {
    // Held for one look only; whoever handles the request has left when the rest is read away.
    lent.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pieces: usize, taken: &Arc<Mutex<usize>>) -> Request {
        let taken = taken.clone();
        let pieces = stream::iter(0..pieces).map(move |_| {
            *taken.lock().unwrap() += 1;
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; MOST / 4]))
        });
        Request::new(Body::from_stream(pieces))
    }

    #[tokio::test]
    async fn the_rest_of_a_body_is_read_away_and_not_more_than_the_bound() {
        for (pieces, expected, whole) in [(1, 1, true), (4, 4, true), (100, 5, false)] {
            let taken = Arc::new(Mutex::new(0));
            let (request, unread) = Unread::lend(request(pieces, &taken));
            drop(request);
            assert_eq!(unread.read_away().await, whole, "{pieces} pieces");
            assert_eq!(*taken.lock().unwrap(), expected, "{pieces} pieces");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_holds_the_answer_up_for_a_moment_only() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let (request, unread) = Unread::lend(Request::new(body));
        drop(request);
        assert!(!unread.read_away().await);
    }

    #[tokio::test]
    async fn what_the_handler_reads_is_the_body() {
        let (request, unread) = Unread::lend(Request::new(Body::from("a body")));
        let bytes = axum::body::to_bytes(request.into_body(), 100).await.unwrap();
        assert_eq!(bytes, "a body");
        assert!(unread.read_away().await);
    }
}
