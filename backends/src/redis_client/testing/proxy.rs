//! A network that fails as it is told.

use std::{net::SocketAddr, sync::Mutex, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Passes everything on between its clients and one server, until told otherwise.
pub(crate) struct Proxy {
    address: SocketAddr,
    server: String,
    door: Mutex<Option<JoinHandle<()>>>,
    connections: Mutex<Connections>,
}

/// What holds for the connections that are open now.
#[derive(Clone)]
struct Connections {
    cut: CancellationToken,
    requests: watch::Sender<bool>,
    answers: watch::Sender<bool>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            cut: CancellationToken::new(),
            requests: watch::Sender::new(true),
            answers: watch::Sender::new(true),
        }
    }
}

impl Proxy {
    /// A proxy before a server, on a port of its own.
    pub(crate) async fn before(server: String) -> std::sync::Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = std::sync::Arc::new(Self {
            address: listener.local_addr().unwrap(),
            server,
            door: Mutex::default(),
            connections: Mutex::default(),
        });
        proxy.let_in(listener);
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn let_in(self: &std::sync::Arc<Self>, listener: TcpListener) {
        let proxy = std::sync::Arc::downgrade(self);
        let door = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(proxy) = proxy.upgrade() else { return };
                let connections = proxy.connections.lock().unwrap().clone();
                tokio::spawn(connections.carry(client, proxy.server.clone()));
            }
        });
        *self.door.lock().unwrap() = Some(door);
    }

    /// Ends all connections. New ones are let in.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.connections.lock().unwrap()).cut.cancel();
    }

    /// Ends all connections and lets none in.
    pub(crate) async fn close(&self) {
        let door = self.door.lock().unwrap().take();
        if let Some(door) = door {
            door.abort();
            // Until then the port is still listened on.
            let _ = door.await;
        }
        self.cut();
    }

    /// Lets connections in again.
    pub(crate) async fn open(self: &std::sync::Arc<Self>) {
        loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.let_in(listener),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Swallows everything that goes over the connections of now; to both sides they look open. New ones work.
    pub(crate) fn swallow(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        connections.requests.send_replace(false);
        connections.answers.send_replace(false);
        // Nothing ends them but their other side.
        std::mem::forget(connections);
    }

    /// Holds back the answers on the connections of now, until they are cut.
    pub(crate) fn hold_answers(&self) {
        self.connections.lock().unwrap().answers.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(door) = self.door.lock().unwrap().take() {
            door.abort();
        }
        self.cut();
    }
}

impl Connections {
    async fn carry(self, client: TcpStream, server: String) {
        let Ok(server) = TcpStream::connect(server).await else { return };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = pass(from_client, to_server, self.requests.subscribe()) => {}
            () = pass(from_server, to_client, self.answers.subscribe()) => {}
        }
    }
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut flows: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if flows.wait_for(|flows| *flows).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
