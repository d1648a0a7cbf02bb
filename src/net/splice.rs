//! Bytes from one TCP connection to another by way of a pipe: the kernel hands its pages on and copies nothing.
//!
//! Each thread has one pipe, which is empty between calls: what the receiver does not take is read out of it. So a
//! connection holds no more than one whose bytes are copied. It pays for large parts only, as each costs one more
//! call.

use super::Conn;
use bytes::BytesMut;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Most that is moved at once, and so what a receiver that takes nothing may leave; the pipe has room for it.
const SIZE: usize = 128 * 1024;

thread_local! {
    /// Empty, unless it is in use.
    static PIPE: Cell<Option<Pipe>> = const { Cell::new(None) };
}

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

/// Moves once what has come on `from` to `to`; gives the number of bytes, 0 where `from` has ended. What `to` does
/// not take is appended to `rest`, its errors are told by the next write. `None`: these two cannot be spliced.
///
/// # Errors
/// Those of reading.
pub fn poll_splice(
    from: &Conn,
    to: &Conn,
    rest: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Option<Poll<io::Result<usize>>> {
    let (Conn::Tcp(from), Conn::Tcp(to)) = (from, to) else { return None };
    let pipe = PIPE.take().or_else(Pipe::open)?;
    match pipe.poll_take(from, cx) {
        Poll::Ready(Ok(taken)) => {
            if let Err(lost) = pipe.give(to, taken, rest) {
                return Some(Poll::Ready(Err(lost)));
            }
            PIPE.set(Some(pipe));
            Some(Poll::Ready(Ok(taken)))
        }
        // A system that does not know how.
        Poll::Ready(Err(error))
            if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            None
        }
        other => {
            PIPE.set(Some(pipe));
            Some(other)
        }
    }
}

/// One splice; no pipe nor socket is waited for.
fn move_once(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

impl Pipe {
    fn open() -> Option<Pipe> {
        let (out, into) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        // One of the usual size moves less at once.
        let _ = fcntl_setpipe_size(&into, SIZE);
        Some(Pipe { out, into })
    }

    fn poll_take(&self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || move_once(from, &self.into, SIZE)) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                taken => return Poll::Ready(taken),
            }
        }
    }

    /// Gives `left` bytes to `to`, and what it does not take to `rest`.
    fn give(&self, to: &TcpStream, mut left: usize, rest: &mut BytesMut) -> io::Result<()> {
        while left > 0 {
            match to.try_io(Interest::WRITABLE, || move_once(&self.out, to, left)) {
                Ok(given @ 1..) => left = left.saturating_sub(given),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        while left > 0 {
            let start = rest.len();
            rest.resize(start + left, 0);
            let read = rustix::io::read(&self.out, rest.get_mut(start..).unwrap_or_default());
            rest.truncate(start + read.unwrap_or(0));
            match read {
                Ok(read @ 1..) => left = left.saturating_sub(read),
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn splice_once(from: &Conn, to: &Conn, rest: &mut BytesMut) -> usize {
        poll_fn(|cx| poll_splice(from, to, rest, cx).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn what_the_receiver_does_not_take_is_kept_and_nothing_is_lost_or_mixed() {
        const TOTAL: usize = 8 << 20;
        let ((mut client, from), (to, mut server)) = (pair().await, pair().await);
        socket2::SockRef::from(&to).set_send_buffer_size(64 * 1024).unwrap();
        socket2::SockRef::from(&server).set_recv_buffer_size(64 * 1024).unwrap();
        let (from, to) = (Conn::Tcp(from), Conn::Tcp(to));
        let sent: Vec<u8> = (0..TOTAL).map(|at| (at / 7) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        });
        // Nobody reads until something has been left.
        let (mut rest, mut moved) = (BytesMut::new(), 0);
        while rest.is_empty() {
            moved += splice_once(&from, &to, &mut rest).await;
        }
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut to = to;
        loop {
            while !rest.is_empty() {
                let written = to.write(&rest).await.unwrap();
                rest.advance(written);
            }
            match splice_once(&from, &to, &mut rest).await {
                0 => break,
                more => moved += more,
            }
        }
        to.shutdown().await.unwrap();
        writing.await.unwrap();
        assert_eq!(moved, TOTAL);
        assert!(reading.await.unwrap() == expected);
        let pipe = PIPE.take().unwrap();
        let empty = rustix::io::read(&pipe.out, &mut [0; 1]);
        assert_eq!(empty, Err(rustix::io::Errno::AGAIN), "empty between calls");
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_leaves_the_pipe_empty_and_others_are_not_spliced() {
        let ((mut client, from), (to, server)) = (pair().await, pair().await);
        drop(server);
        let (from, mut to) = (Conn::Tcp(from), Conn::Tcp(to));
        let mut rest = BytesMut::new();
        // The first may go out before the reset has come.
        while rest.is_empty() {
            client.write_all(&[7; 1000]).await.unwrap();
            splice_once(&from, &to, &mut rest).await;
        }
        assert!(to.write_all(&rest).await.is_err());
        let pipe = PIPE.take().unwrap();
        assert_eq!(rustix::io::read(&pipe.out, &mut [0; 1]), Err(rustix::io::Errno::AGAIN));
        let unix = Conn::Unix(UnixStream::pair().unwrap().0);
        let none = poll_fn(|cx| Poll::Ready(poll_splice(&from, &unix, &mut rest, cx).is_none()));
        assert!(none.await);
    }
}
