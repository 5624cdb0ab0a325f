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
const MOST: usize = 256 << 10;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request's body, lent to whoever handles the request; what they leave of it stays here.
pub(crate) struct Unread(Option<Lent>);

type Lent = Arc<Mutex<BodyDataStream>>;

impl Unread {
    /// Lends the body of a request.
    pub(crate) fn lend(request: Request) -> (Request, Self) {
        // A client that asks before it sends is answered by not being asked to send.
        if request.body().is_end_stream() || request.headers().contains_key(header::EXPECT) {
            return (request, Self(None));
        }
        let (parts, body) = request.into_parts();
        let lent: Lent = Arc::new(Mutex::new(body.into_data_stream()));
        let reader = lent.clone();
        let body = Body::from_stream(stream::poll_fn(move |context| poll_next(&reader, context)));
        (Request::from_parts(parts, body), Self(Some(lent)))
    }

    /// Reads what was left, within bounds.
    pub(crate) async fn read_away(self) {
        let Some(lent) = self.0 else { return };
        let reading = async {
            let mut left = MOST;
            while let Some(Ok(piece)) = poll_fn(|context| poll_next(&lent, context)).await {
                match left.checked_sub(piece.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // What takes longer is left.
        let _ = tokio::time::timeout(PATIENCE, reading).await;
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
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 << 10]))
        });
        Request::new(Body::from_stream(pieces))
    }

    #[tokio::test]
    async fn the_rest_of_a_body_is_read_away_and_not_more_than_the_bound() {
        for (pieces, expected) in [(1, 1), (4, 4), (100, 5)] {
            let taken = Arc::new(Mutex::new(0));
            let (request, unread) = Unread::lend(request(pieces, &taken));
            drop(request);
            unread.read_away().await;
            assert_eq!(*taken.lock().unwrap(), expected, "{pieces} pieces");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_holds_the_answer_up_for_a_moment_only() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let (request, unread) = Unread::lend(Request::new(body));
        drop(request);
        unread.read_away().await;
    }

    #[tokio::test]
    async fn what_the_handler_reads_is_the_body() {
        let (request, unread) = Unread::lend(Request::new(Body::from("a body")));
        let bytes = axum::body::to_bytes(request.into_body(), 100).await.unwrap();
        assert_eq!(bytes, "a body");
        unread.read_away().await;
    }
}
