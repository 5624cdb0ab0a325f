//! `GET /v1/ws`: many jobs on one WebSocket.

use std::collections::HashMap;

use axum::{
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{
    StreamExt,
    future::AbortHandle,
    stream::{Abortable, BoxStream, SelectAll},
};
use raglan_pipeline::{
    domain::{Event, JobId, JobStatus},
    view::{self, EventView},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::socket::{Closed, Connection, GOING_AWAY, Incoming, Opening};
use crate::{
    auth::Caller,
    error::{ApiResult, Problem},
    extract::{ApiQuery, from_json},
    openapi::{Overloaded, names::StatusName},
    state::{ApiState, unknown_job},
};

/// The ticket of a browser.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TicketQuery {
    /// A ticket of `POST /v1/tickets`, where no header can be set.
    #[serde(rename = "ticket")]
    #[param(rename = "ticket")]
    _ticket: Option<String>,
}

/// What a client says on the socket.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    /// What to do: `subscribe`, `unsubscribe` or `cancel`.
    op: Op,
    /// With which job.
    job_id: Uuid,
    /// `subscribe`: the `seq` of the last event that you have.
    #[serde(default)]
    after: u64,
}

/// What to do.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// Follow a job from the event after `after`.
    Subscribe,
    /// Stop following it.
    Unsubscribe,
    /// Cancel it.
    Cancel,
}

/// What the server says beside events.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Reply {
    /// Nothing more comes for this job; its last event was sent before.
    Done {
        /// The job.
        job_id: Uuid,
    },
    /// The job has ended, by this or before.
    Cancel {
        /// The job.
        job_id: Uuid,
        /// How it ended.
        #[schema(value_type = StatusName, inline)]
        status: JobStatus,
    },
    /// A command could not be followed. The socket stays open.
    Error {
        /// Stable, for programs.
        code: &'static str,
        /// For people.
        message: String,
        /// The job, where one was named.
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<Uuid>,
    },
}

/// Follow many jobs over one WebSocket.
///
/// Send `{"op":"subscribe","job_id":"…","after":0}`, `unsubscribe` or `cancel`. Events come as on the socket of one job; after a job's
/// last event comes `{"op":"done","job_id":"…"}`. What cannot be done is answered with `{"op":"error","code":"…","message":"…"}`, and the socket stays open.
#[utoipa::path(
    get,
    path = "/v1/ws",
    tag = "Following a job",
    operation_id = "follow_jobs_ws",
    params(TicketQuery),
    responses(
        (status = 101, description = "The socket is open; beside events it carries these", body = Reply),
        (status = 426, description = "This is not a WebSocket handshake", body = crate::error::ProblemBody, content_type = "application/problem+json"),
        Overloaded
    )
)]
pub(crate) async fn follow_jobs_ws(
    State(state): State<ApiState>,
    caller: Caller,
    _query: ApiQuery<TicketQuery>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let opening = Opening::new(&state, upgrade)?;
    Ok(opening.run(move |connection| {
        Session { connection, state, caller, followed: HashMap::new(), events: SelectAll::new() }.run()
    }))
}

/// The next event of a job, or none after its last one.
type Next = (JobId, Option<Event>);

/// What a socket says of the jobs that it follows.
#[derive(Serialize)]
#[serde(untagged)]
enum Passed {
    Event(EventView),
    Done(Reply),
}

/// One socket with its subscriptions. Jobs with something to send are served in turn.
struct Session {
    connection: Connection,
    state: ApiState,
    caller: Caller,
    followed: HashMap<JobId, AbortHandle>,
    events: SelectAll<BoxStream<'static, Next>>,
}

impl Session {
    async fn run(mut self) {
        let shutdown = self.state.shutdown.clone();
        loop {
            let served = tokio::select! {
                Some(next) = self.events.next(), if !self.events.is_empty() => self.pass_on(next).await,
                incoming = self.connection.receive() => match incoming {
                    Incoming::Text(text) => self.obey(text.as_bytes()).await,
                    Incoming::Binary => self.refuse(None, &Problem::bad_request("text_only", "send JSON as text frames")).await,
                    Incoming::Gone => return,
                },
                () = shutdown.cancelled() => return self.connection.close(GOING_AWAY, "the server stops").await,
            };
            if served.is_err() {
                return;
            }
        }
    }

    async fn pass_on(&mut self, next: Next) -> Result<(), Closed> {
        let followed = &mut self.followed;
        let view = |(id, event): Next| match event {
            Some(event) => Passed::Event(view::event(event)),
            None => {
                followed.remove(&id);
                Passed::Done(Reply::Done { job_id: id.0 })
            }
        };
        self.connection.send_ready(next, &mut self.events, view).await
    }

    async fn obey(&mut self, text: &[u8]) -> Result<(), Closed> {
        let command: Command = match from_json(text) {
            Ok(command) => command,
            Err(problem) => {
                let (mut code, detail) = problem.words();
                let item = problem.clone().into_item(None);
                if item.field.as_deref() == Some("op") {
                    code = "unknown_op";
                }
                let message =
                    item.field.map_or_else(|| detail.to_owned(), |field| format!("{field}: {detail}"));
                return self.connection.send_json(&Reply::Error { code, message, job_id: None }).await;
            }
        };
        let id = JobId(command.job_id);
        let obeyed = match command.op {
            Op::Subscribe => self.subscribe(id, command.after).await.map(|()| None),
            Op::Unsubscribe => self.unsubscribe(id).map(|()| None),
            Op::Cancel => self.cancel(id).await.map(Some),
        };
        match obeyed {
            Ok(None) => Ok(()),
            Ok(Some(reply)) => self.connection.send_json(&reply).await,
            Err(problem) => self.refuse(Some(id), &problem).await,
        }
    }

    async fn refuse(&mut self, id: Option<JobId>, problem: &Problem) -> Result<(), Closed> {
        let (code, detail) = problem.words();
        let reply = Reply::Error { code, message: detail.to_owned(), job_id: id.map(|id| id.0) };
        self.connection.send_json(&reply).await
    }

    async fn subscribe(&mut self, id: JobId, after: u64) -> ApiResult<()> {
        if self.followed.contains_key(&id) {
            return Err(Problem::conflict("already_subscribed", "this socket follows the job already"));
        }
        let most = self.state.settings.streams.subscriptions;
        if self.followed.len() >= most {
            let detail = format!("one socket follows at most {most} jobs; open another one");
            return Err(Problem::conflict("too_many_subscriptions", detail));
        }
        let events = self.state.followed(&self.caller, id, after).await?.events;
        let (abort, registration) = AbortHandle::new_pair();
        let frames = events
            .map(move |event| (id, Some(event)))
            .chain(futures::stream::once(async move { (id, None) }));
        self.events.push(Abortable::new(frames, registration).boxed());
        self.followed.insert(id, abort);
        Ok(())
    }

    fn unsubscribe(&mut self, id: JobId) -> ApiResult<()> {
        let abort = self
            .followed
            .remove(&id)
            .ok_or_else(|| Problem::conflict("not_subscribed", "this socket does not follow the job"))?;
        abort.abort();
        Ok(())
    }

    async fn cancel(&mut self, id: JobId) -> ApiResult<Reply> {
        let job = self.state.submit.cancel(&self.caller.tenant, id).await?.ok_or_else(unknown_job)?;
        Ok(Reply::Cancel { job_id: id.0, status: job.status })
    }
}
