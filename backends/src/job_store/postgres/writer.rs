//! Three tasks, each with a connection of its own, write jobs: one accepts them, one writes their ends, one what lies between. Each writes together what waits
//! for it. A transaction takes its round trips and its flush however little it holds: two tasks for one of the three write twice as many, half as full, and
//! what waits for them waits as long. Apart they are because a commit that need not last (see [`Durability`]) does not wait for the disk, and because one that is
//! to last need not wait for another of another kind.

use std::{
    collections::{HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use raglan_pipeline::{
    domain::JobId,
    ports::{ErrorKind, PortError, PortResult},
};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{error, warn};

use super::{
    group::{self, Answer, Durability, Operation, repeated},
    known::Known,
};
use crate::database::{
    PostgresDatabase, SqlxResultExt as _,
    postgres::{TRUSTED, is_alive, late, part},
};

/// How many operations wait for a task at most; callers beyond these wait for a place.
const QUEUE: usize = 2_048;
/// How long a caller waits for a place before it is refused.
const PATIENCE: Duration = Duration::from_secs(10);
/// At most so many operations share a transaction.
const GROUP: usize = 256;
/// How long a task waits for company after the first operation, while operations come in company: a statement costs the server and this process much whatever it holds.
const LINGER: Duration = Duration::from_millis(2);

/// The writer's end for callers.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    /// Accepts jobs.
    accepting: mpsc::Sender<Request>,
    /// Writes what else must last.
    ending: mpsc::Sender<Request>,
    /// Writes what need not.
    passing: mpsc::Sender<Request>,
    /// How long an operation may take once it has a place: the group before it, its own, and one of it alone.
    limit: Duration,
}

#[derive(Debug)]
struct Request {
    operation: Operation,
    reply: oneshot::Sender<PortResult<Answer>>,
}

impl Writer {
    /// Starts the tasks on the present runtime.
    pub(super) fn start(database: PostgresDatabase, retention: Duration) -> Self {
        let limit = 3 * database.call_timeout();
        let known = Arc::new(Known::default());
        let start = |durability| {
            let (requests, queue) = mpsc::channel(QUEUE);
            let task = Task {
                database: database.clone(),
                known: Arc::clone(&known),
                durability,
                retention,
                connection: None,
                queue,
                waiting: VecDeque::new(),
                busy: false,
            };
            tokio::spawn(task.run());
            requests
        };
        Self {
            accepting: start(Durability::Promised),
            ending: start(Durability::Promised),
            passing: start(Durability::Passing),
            limit,
        }
    }

    /// The task for an operation.
    fn task(&self, operation: &Operation) -> &mpsc::Sender<Request> {
        match (operation, operation.durability()) {
            (Operation::Accept(_), _) => &self.accepting,
            (_, Durability::Promised) => &self.ending,
            (_, Durability::Passing) => &self.passing,
        }
    }

    /// Does an operation, once with those that wait beside it, and picks its answer out.
    pub(super) async fn run<T>(
        &self,
        operation: Operation,
        pick: impl FnOnce(Answer) -> Option<T>,
    ) -> PortResult<T> {
        let (reply, answer) = oneshot::channel();
        let task = self.task(&operation);
        match task.send_timeout(Request { operation, reply }, PATIENCE).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(gone()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(PortError::new(ErrorKind::Overloaded, "too many writes wait for the database")
                    .with_retry_after(Duration::from_secs(1)));
            }
        }
        match timeout(self.limit, answer).await {
            Ok(answer) => pick(answer.map_err(|_| gone())??).ok_or_else(|| {
                PortError::new(ErrorKind::Internal, "a write was answered with another's answer")
            }),
            Err(_) => Err(late()),
        }
    }
}

fn gone() -> PortError {
    PortError::new(ErrorKind::Unavailable, "the writer of the database has gone")
}

struct Task {
    database: PostgresDatabase,
    known: Arc<Known>,
    durability: Durability,
    retention: Duration,
    /// With when it was used last. None before the first group, and after one that left it in a state not worth guessing.
    connection: Option<(PgConnection, Instant)>,
    queue: mpsc::Receiver<Request>,
    /// Taken from the queue and not yet in a group: another operation on the same job was before it.
    waiting: VecDeque<Request>,
    /// Whether the last group had more than one operation.
    busy: bool,
}

impl Task {
    async fn run(mut self) {
        while let Some(group) = self.gather().await {
            // A panic in one group must not take the writer from all others. Its callers see that there is no answer.
            if AssertUnwindSafe(self.write(group)).catch_unwind().await.is_err() {
                error!("a write to the database panicked");
                self.connection = None;
            }
        }
        if let Some((connection, _)) = self.connection {
            part(connection).await;
        }
    }

    /// What waits, as far as it can be done together: a job's operations come one after the other. Waits for the first; none
    /// when nobody will ever ask again.
    async fn gather(&mut self) -> Option<Vec<Request>> {
        let mut arrived = Vec::new();
        if self.waiting.is_empty() {
            if self.queue.recv_many(&mut arrived, GROUP).await == 0 {
                return None;
            }
            if self.busy && arrived.len() < GROUP {
                tokio::time::sleep(LINGER).await;
            }
        }
        let most = GROUP.min(QUEUE.saturating_sub(self.waiting.len()));
        while arrived.len() < most
            && let Ok(request) = self.queue.try_recv()
        {
            arrived.push(request);
        }
        let mut jobs = HashSet::<JobId>::new();
        let mut group = Vec::new();
        for request in std::mem::take(&mut self.waiting).into_iter().chain(arrived) {
            if request.reply.is_closed() {
                // Its caller has left before it began.
                continue;
            }
            if group.len() < GROUP && jobs.insert(request.operation.job()) {
                group.push(request);
            } else {
                self.waiting.push_back(request);
            }
        }
        self.busy = group.len() > 1;
        Some(group)
    }

    /// Writes a group, and where it fails for a reason of its own, each operation by itself, so that one fails alone.
    async fn write(&mut self, group: Vec<Request>) {
        let operations: Vec<_> = group.iter().map(|request| &request.operation).collect();
        let error = match self.perform(&operations).await {
            Ok(answers) => {
                for (request, answer) in group.into_iter().zip(answers) {
                    request.answer(answer);
                }
                return;
            }
            Err(error) => error,
        };
        warn!(%error, writes = group.len(), "writes of jobs failed");
        let mut error = Some(error).filter(|_| group.len() == 1 || self.connection.is_none());
        for request in group {
            // The server is away, and would be for each of them.
            if let Some(error) = &error {
                request.answer(Err(repeated(error)));
                continue;
            }
            if request.reply.is_closed() {
                continue;
            }
            match self.perform(&[&request.operation]).await {
                Ok(mut answers) => request.answer(answers.pop().unwrap_or_else(|| Err(gone()))),
                Err(alone) => {
                    request.answer(Err(repeated(&alone)));
                    error = Some(alone).filter(|_| self.connection.is_none());
                }
            }
        }
    }

    /// Does operations together: all of them accept, or none does. After an error the connection is gone, or fit for the next.
    async fn perform(&mut self, operations: &[&Operation]) -> PortResult<Vec<PortResult<Answer>>> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let began = Instant::now();
        let limit = self.database.call_timeout();
        // Taken out, so that whatever cuts this short closes it.
        let mut connection = self.connect().await?;
        let new: Vec<_> = operations.iter().filter_map(|operation| operation.new_job()).collect();
        let work = async {
            if new.is_empty() {
                group::change(&mut connection, &self.known, operations, self.retention).await
            } else {
                group::accept(&mut connection, &new).await
            }
        };
        let Ok(done) = timeout(limit, work).await else { return Err(late()) };
        // A transaction that failed is undone now.
        if done.is_ok() || is_alive(&mut connection).await {
            self.connection = Some((connection, Instant::now()));
        }
        if done.is_ok() {
            metrics::histogram!("raglan_database_writes_per_commit").record(operations.len() as f64);
            metrics::histogram!("raglan_database_commit_seconds").record(began.elapsed());
        }
        done
    }

    /// The connection, or a new one where there is none or the server closed it while nobody used it.
    async fn connect(&mut self) -> PortResult<PgConnection> {
        if let Some((mut connection, used)) = self.connection.take()
            && !self.database.is_closed()
            && (used.elapsed() < TRUSTED || is_alive(&mut connection).await)
        {
            return Ok(connection);
        }
        let mut connection = self.database.connection().await?;
        // Jobs are looked up by their ids one after the other, in the order in which they are named: whatever the planner thinks of the table, two
        // that write the same jobs at once do not wait for each other. So there is nothing to plan anew each time.
        let mut settings =
            "SET enable_hashjoin TO off; SET enable_mergejoin TO off; SET enable_seqscan TO off; SET plan_cache_mode TO force_generic_plan"
                .to_owned();
        if self.durability == Durability::Passing {
            settings.push_str("; SET synchronous_commit TO off");
        }
        connection.execute(AssertSqlSafe(settings)).await.map(drop).port()?;
        Ok(connection)
    }
}

impl Request {
    fn answer(self, answer: PortResult<Answer>) {
        // Nobody there any more: it has happened all the same.
        let _ = self.reply.send(answer);
    }
}
