import com.alipay.remoting.BizContext;
import com.alipay.remoting.InvokeCallback;
import com.alipay.remoting.rpc.RpcClient;
import com.alipay.remoting.rpc.RpcServer;
import com.alipay.remoting.rpc.protocol.SyncUserProcessor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

/** A SOFA-Bolt server and client. BoltPeer server PORT | BoltPeer client PORT: prints a line per case. */
public final class BoltPeer {
    private static final AtomicInteger ONEWAY = new AtomicInteger();

    public static void main(String[] args) throws Exception {
        int port = Integer.parseInt(args[1]);
        if (args[0].equals("server")) {
            RpcServer server = new RpcServer(port);
            server.registerUserProcessor(new Echo());
            server.startup();
            System.out.println("serving");
            Thread.currentThread().join();
        }
        RpcClient client = new RpcClient();
        client.startup();
        String address = "127.0.0.1:" + port;
        Cases cases = new Cases();
        cases.run("sync", () -> {
            for (int i = 0; i < 200; i++) {
                Cases.equal(client.invokeSync(address, "hello " + i, 5000), "echo:hello " + i);
            }
        });
        cases.run("large", () -> {
            char[] body = new char[2_000_000];
            Arrays.fill(body, 'x');
            String sent = new String(body);
            Cases.equal(client.invokeSync(address, sent, 20000), "echo:" + sent);
        });
        cases.run("future", () -> Cases.equal(client.invokeWithFuture(address, "later", 5000).get(5000), "echo:later"));
        cases.run("callback", () -> {
            CountDownLatch done = new CountDownLatch(50);
            for (int i = 0; i < 50; i++) {
                String sent = "callback " + i;
                client.invokeWithCallback(address, sent, new InvokeCallback() {
                    public void onResponse(Object answer) {
                        if (answer.equals("echo:" + sent)) {
                            done.countDown();
                        }
                    }

                    public void onException(Throwable error) {
                        error.printStackTrace();
                    }

                    public Executor getExecutor() {
                        return null;
                    }
                }, 5000);
            }
            Cases.equal(done.await(10, TimeUnit.SECONDS), true);
        });
        cases.run("oneway", () -> {
            int wanted = (Integer) client.invokeSync(address, "count", 5000) + 10;
            for (int i = 0; i < 10; i++) {
                client.oneway(address, "oneway");
            }
            for (int i = 0; i < 100 && !client.invokeSync(address, "count", 5000).equals(wanted); i++) {
                Thread.sleep(50);
            }
            Cases.equal(client.invokeSync(address, "count", 5000), wanted);
        });
        cases.run("exception", () -> Cases.fails("InvokeServerException", () -> client.invokeSync(address, "throw", 5000)));
        cases.run("timeout", () -> Cases.fails("imeout", () -> client.invokeSync(address, "sleep", 300)));
        cases.run("unknown class", () -> Cases.fails("", () -> client.invokeSync(address, new ArrayList<>(List.of(1)), 5000)));
        cases.run("out of order", () -> {
            var slow = client.invokeWithFuture(address, "nap", 5000);
            Cases.equal(client.invokeSync(address, "quick", 5000), "echo:quick");
            Cases.equal(slow.get(5000), "echo:nap");
        });
        cases.run("after all of it", () -> Cases.equal(client.invokeSync(address, "last", 5000), "echo:last"));
        cases.end();
    }

    /** Answers with what it got. */
    private static final class Echo extends SyncUserProcessor<String> {
        @Override
        public Object handleRequest(BizContext context, String request) throws Exception {
            switch (request) {
                case "oneway":
                    return ONEWAY.incrementAndGet();
                case "count":
                    return ONEWAY.get();
                case "throw":
                    throw new IllegalStateException("as asked");
                case "sleep":
                    Thread.sleep(1500);
                    break;
                case "nap":
                    Thread.sleep(400);
                    break;
                default:
            }
            return "echo:" + request;
        }

        @Override
        public String interest() {
            return String.class.getName();
        }
    }
}
