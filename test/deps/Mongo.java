import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import java.util.List;

/** A server that speaks MongoDB's protocol, on PORT of the loopback, with its data in FILE. It ends when standard input does, or by SIGTERM. */
class Mongo {
    public static void main(String[] args) throws Exception {
        MongoServer server = new MongoServer(new H2Backend(args[1]).version(new Version()));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdown));
        server.bind("127.0.0.1", Integer.parseInt(args[0]));
        while (System.in.read() >= 0) { }
        System.exit(0);
    }

    /** What it says that it is: the oldest MongoDB that today's drivers talk to. Of itself it says one that they refuse. */
    static class Version implements MongoVersion {
        public List<Integer> getVersionArray() { return List.of(4, 4, 0); }
        public int getWireVersion() { return 9; }
    }
}
