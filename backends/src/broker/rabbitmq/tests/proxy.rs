//! A TCP proxy before the server, which a test can cut and silence.

use std::net::SocketAddr;

use raglan_pipeline::secret::Secret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What the proxy does with the connections that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Keeps them open and passes nothing on.
    Silent,
    Cut,
    /// Like `Cut`, and no new ones are taken.
    Down,
}

/// Listens on a port of its own and passes everything on to the server.
pub(super) struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Before the server of an AMQP address.
    pub(super) async fn start(server: &str) -> Self {
        let server = server.parse::<lapin::uri::AMQPUri>().unwrap().authority;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Forward);
        let modes = mode.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A connection heeds only what is said after it was made, but for this.
                if *modes.borrow() == Mode::Down {
                    continue;
                }
                let modes = modes.subscribe();
                let (host, port) = (server.host.clone(), server.port);
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect((host, port)).await {
                        forward(client, server, modes).await;
                    }
                });
            }
        });
        Self { address, mode }
    }

    /// The server's address with the proxy in its place.
    pub(super) fn url(&self, server: &str) -> Secret {
        let mut uri: lapin::uri::AMQPUri = server.parse().unwrap();
        uri.authority.host = self.address.ip().to_string();
        uri.authority.port = self.address.port();
        Secret::new(uri.to_string())
    }

    /// Breaks all connections off. New ones are taken.
    pub(super) fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Breaks all connections off and takes no new ones.
    pub(super) fn down(&self) {
        self.mode.send_replace(Mode::Down);
    }

    /// Takes connections again.
    pub(super) fn up(&self) {
        self.mode.send_replace(Mode::Forward);
    }

    /// All connections stay open and nothing passes any more. New ones work.
    pub(super) fn silence(&self) {
        self.mode.send_replace(Mode::Silent);
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, mut modes: watch::Receiver<Mode>) {
    let (mut up, mut down) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        tokio::select! {
            changed = modes.changed() => {
                let mode = *modes.borrow_and_update();
                match (changed, mode) {
                    (Ok(()), Mode::Silent) => std::future::pending::<()>().await,
                    (Ok(()), Mode::Forward) => {}
                    _ => return,
                }
            }
            read = client.read(&mut up) => match read {
                Ok(n) if n > 0 && server.write_all(&up[..n]).await.is_ok() => {}
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(n) if n > 0 && client.write_all(&down[..n]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}
