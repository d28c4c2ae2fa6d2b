//! The pooler and the balancer: sockets and tasks around [`proxy_core`].
