// A client that knows nothing but the .proto files: streams one answer and prints its text and its target.
import path from "node:path";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [protos, address, prompt] = process.argv.slice(2);
const definition = loader.loadSync(path.join(protos, "spillway/v1/inference.proto"), {
  includeDirs: [protos],
  longs: String,
  enums: String,
  oneofs: true,
});
const { InferenceService } = grpc.loadPackageDefinition(definition).spillway.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure());
const call = client.streamGenerate({ spec: { text: { text: prompt } } }, { deadline: Date.now() + 10_000 });
let text = "";
let target = "";
call.on("data", ({ event }) => {
  if (event.event === "delta") text += event.delta.text;
  if (event.event === "started") target = event.started.target;
});
call.on("error", (error) => {
  console.error(`${error.code}: ${error.details}`);
  process.exit(1);
});
call.on("end", () => {
  console.log(JSON.stringify({ text, target }));
  client.close();
});
