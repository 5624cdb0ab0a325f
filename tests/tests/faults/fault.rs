//! What can fail.

use std::{path::Path, time::Duration};

use raglan_tests::{Proxy, ROLES, Traffic};
use rand::{Rng, rngs::StdRng};
use tokio::time::sleep;

use crate::world::{Wires, World};

/// A server of the distributed shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Postgres,
    Rabbitmq,
    Redis,
}

impl Part {
    const ALL: [Self; 3] = [Self::Postgres, Self::Rabbitmq, Self::Redis];

    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Rabbitmq => "rabbitmq",
            Self::Redis => "redis",
        }
    }

    fn wire(self, wires: &Wires) -> &Proxy {
        match self {
            Self::Postgres => &wires.postgres,
            Self::Rabbitmq => &wires.rabbitmq,
            Self::Redis => &wires.redis,
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of the process of a role, so many times.
    KillRole(usize, usize),
    /// `kill -9` of a server, which comes back; Redis without its data.
    KillServer(Part),
    /// The same of Redis, with the data that it had saved a moment before.
    KillRedisWithData,
    /// RabbitMQ takes its disk for full, and no messages, for seconds.
    DiskFull,
    /// The processes of all roles start again one after the other, with a clock that is wrong by so many seconds.
    Clock(i64),
    /// All queues emptied.
    PurgeQueues,
    /// The wire to a server cut, for seconds.
    Cut(Part),
    /// The wire to a server dead, and nobody told.
    HalfOpen(Part),
    /// The wire to a server slow.
    Slow(Part),
}

/// What moves the clock of a process.
pub const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// How long a server is away.
const AWAY: Duration = Duration::from_secs(3);

impl Fault {
    /// All of them; roles are killed twenty times in a full run.
    pub fn all(scale: usize) -> Vec<Self> {
        let kills = if scale > 1 { 20 } else { 3 };
        let mut all: Vec<Self> = (0..ROLES.len()).map(|role| Self::KillRole(role, kills)).collect();
        all.extend(Part::ALL.map(Self::KillServer));
        all.extend([
            Self::KillRedisWithData,
            Self::PurgeQueues,
            Self::DiskFull,
            Self::Clock(3_600),
            Self::Clock(-3_600),
        ]);
        for part in Part::ALL {
            all.extend([Self::Cut(part), Self::HalfOpen(part), Self::Slow(part)]);
        }
        all
    }

    /// Its name in the table.
    pub fn name(self) -> String {
        match self {
            Self::KillRole(role, times) => format!("kill -9 {} x{times}", ROLES[role]),
            Self::KillServer(Part::Redis) => "kill -9 redis without data".to_owned(),
            Self::KillServer(part) => format!("kill -9 {}", part.name()),
            Self::KillRedisWithData => "kill -9 redis with data".to_owned(),
            Self::DiskFull => "rabbitmq disk full".to_owned(),
            Self::Clock(by) => format!("clocks {by:+} s"),
            Self::PurgeQueues => "queues purged".to_owned(),
            Self::Cut(part) => format!("{} cut", part.name()),
            Self::HalfOpen(part) => format!("{} half-open", part.name()),
            Self::Slow(part) => format!("{} slow", part.name()),
        }
    }

    /// Whether it harms the servers themselves, and not only the way to them.
    pub fn needs_own_servers(self) -> bool {
        matches!(self, Self::KillServer(_) | Self::KillRedisWithData | Self::PurgeQueues | Self::DiskFull)
    }

    /// What is missing on this machine for it, if anything is.
    pub fn lacks(self) -> Option<String> {
        let needed = matches!(self, Self::Clock(_)) && !Path::new(FAKETIME).exists();
        needed.then(|| format!("{FAKETIME} is not there (Debian's package libfaketime)"))
    }

    /// Does it; returns when all is in order again.
    pub async fn strike(self, world: &mut World, rng: &mut StdRng) {
        let mut moment = || Duration::from_millis(rng.random_range(50..800));
        match self {
            Self::KillRole(role, times) => {
                for _ in 0..times {
                    sleep(moment()).await;
                    world.crash(role).await;
                }
            }
            Self::KillServer(part) => {
                sleep(moment()).await;
                world.crash_server(part.name(), AWAY).await;
            }
            Self::KillRedisWithData => {
                sleep(moment()).await;
                world.save_redis().await;
                world.crash_server(Part::Redis.name(), AWAY).await;
            }
            Self::DiskFull => {
                sleep(moment()).await;
                tokio::task::block_in_place(|| set_disk_limit(world, "1000GB"));
                sleep(AWAY).await;
                tokio::task::block_in_place(|| set_disk_limit(world, "50MB"));
            }
            Self::Clock(by) => {
                world.set_clock(Some(by));
                for role in 0..ROLES.len() {
                    sleep(moment()).await;
                    world.crash(role).await;
                }
                world.set_clock(None);
            }
            Self::PurgeQueues => {
                for _ in 0..3 {
                    sleep(moment()).await;
                    tokio::task::block_in_place(|| purge(world));
                }
            }
            Self::Cut(part) => wire(part.wire(&world.wires), Traffic::Cut, moment()).await,
            Self::HalfOpen(part) => wire(part.wire(&world.wires), Traffic::Stalls, moment()).await,
            Self::Slow(part) => {
                wire(part.wire(&world.wires), Traffic::Slow(Duration::from_millis(50)), moment()).await;
            }
        }
    }
}

/// RabbitMQ blocks who publishes as long as there is less room than this.
fn set_disk_limit(world: &World, limit: &str) {
    let own = world.own.as_ref().expect("the fault has servers of its own");
    let _ = own.rabbitmqctl(&["--quiet", "set_disk_free_limit", limit]);
}

async fn wire(wire: &Proxy, traffic: Traffic, after: Duration) {
    sleep(after).await;
    wire.set(traffic);
    sleep(AWAY).await;
    wire.set(Traffic::Passes);
}

fn purge(world: &World) {
    let own = world.own.as_ref().expect("the fault has servers of its own");
    for queue in own.rabbitmqctl(&["--quiet", "list_queues", "name"]).lines().skip(1) {
        let _ = own.rabbitmqctl(&["--quiet", "purge_queue", queue]);
    }
}
